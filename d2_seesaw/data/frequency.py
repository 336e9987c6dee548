"""Frequency groups: rare, common and frequent, from the numbers of training images or pixels.

The bounds are those of the official LVIS v1 annotations (Gupta et al., CVPR 2019): a category in at
most 10 training images is rare, in 11 to 100 common, in more than 100 frequent. The rule in a
comment of lvis-api (fewer than 10, fewer than 100) mislabels the 26 categories on the bounds.
Classes of semantic segmentation are rare, common and frequent by their pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

MOST_IMAGES_OF_RARE = 10
MOST_IMAGES_OF_COMMON = 100
GROUPS = ("r", "c", "f")
UNKNOWN_FREQUENCY = "n/a"
GROUP_NAMES = {"r": "rare", "c": "common", "f": "frequent", UNKNOWN_FREQUENCY: "unknown"}


def frequency_group(image_count: int) -> str:
    """Return ``"r"``, ``"c"`` or ``"f"`` for a category in ``image_count`` training images."""
    if image_count <= MOST_IMAGES_OF_RARE:
        return "r"
    return "c" if image_count <= MOST_IMAGES_OF_COMMON else "f"


def category_image_counts(dataset: Iterable[dict[str, Any]], num_classes: int) -> np.ndarray:
    """Count the images in which each category occurs.

    Args:
        dataset: dicts in Detectron2's format; only ``annotations[i]["category_id"]`` is read.
        num_classes: C.

    Returns:
        ``(C,)`` int64 counts.

    Raises:
        ValueError: a category id outside ``[0, C)``.
    """
    counts = np.zeros(num_classes, dtype=np.int64)
    for image in dataset:
        for category in {a["category_id"] for a in image["annotations"]}:
            if not 0 <= category < num_classes:
                raise ValueError(
                    f"category_id must be in [0, {num_classes - 1}] for {num_classes} classes, "
                    f"got {category} in {image.get('file_name', 'an image')}"
                )
            counts[category] += 1
    return counts


def group_sizes(image_counts: Sequence[int] | np.ndarray) -> dict[str, int]:
    """Count the categories in each group, from their training image counts."""
    groups = [frequency_group(int(count)) for count in image_counts]
    return {group: groups.count(group) for group in GROUPS}


def check_group_bounds(bounds: Sequence[float] | None, num_classes: int) -> tuple[float, float]:
    """Return the shares of all pixels from which on classes are common, and frequent.

    Args:
        bounds: two ascending numbers in ``(0, 1)``. By default a class is frequent if it has at
            least the share it would have were all equal, ``1 / num_classes``, and rare if it has
            less than a tenth of that.
        num_classes: number of classes.

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
    """Return ``counts`` as ``(num_classes,)`` int64 pixels.

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
    """Return ``"r"``, ``"c"`` or ``"f"`` for each class.

    Args:
        pixels: pixels of each class; none at all makes every class rare.
        bounds: shares of all pixels from which on classes are common, and frequent.
    """
    shares = pixels / max(pixels.sum(), 1)
    return [GROUPS[i] for i in np.searchsorted(bounds, shares, side="right")]
