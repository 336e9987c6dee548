"""Rare, common and frequent classes of semantic segmentation, by their pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from d2_seesaw.evaluation.lvis.annotations import FREQUENCIES


def check_group_bounds(bounds: Sequence[float] | None, num_classes: int) -> tuple[float, float]:
    """The shares of all pixels from which on classes are common, and frequent.

    Args:
        bounds: two ascending numbers in ``(0, 1)``. By default a class is frequent if it has at
            least the share it would have were all equal, ``1 / num_classes``, and rare if it has
            less than a tenth of that.
        num_classes: how many there are.

    Raises:
        ValueError: other bounds.
    """
    if bounds is None:
        return 0.1 / num_classes, 1 / num_classes
    if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1] < 1:
        raise ValueError(
            "group_bounds must be two ascending shares of all pixels, from which on a class is "
            f"common and frequent, such as (0.005, 0.05), got {tuple(bounds)}"
        )
    return bounds[0], bounds[1]


def check_pixel_counts(counts: object, num_classes: int) -> np.ndarray:
    """``counts`` as ``(num_classes,)`` int64 pixels.

    Raises:
        ValueError: another shape, negative numbers or no pixel at all.
    """
    pixels = np.asarray(counts)
    if pixels.shape != (num_classes,):
        raise ValueError(
            f"pixel_counts must hold one number for each of the {num_classes} classes, got shape "
            f"{pixels.shape}"
        )
    if (pixels < 0).any() or not pixels.any():
        raise ValueError(f"pixel_counts must be numbers of pixels, got {pixels.tolist()}")
    return pixels.astype(np.int64)


def pixel_frequency_groups(pixels: np.ndarray, bounds: tuple[float, float]) -> list[str]:
    """``"r"``, ``"c"`` or ``"f"`` for each class.

    Args:
        pixels: pixels of each class; none at all makes every class rare.
        bounds: shares of all pixels from which on classes are common, and frequent.
    """
    shares = pixels / max(pixels.sum(), 1)
    return [FREQUENCIES[i] for i in np.searchsorted(bounds, shares, side="right")]
