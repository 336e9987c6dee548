"""Repeat factor sampling for semantic segmentation, where a class is present by its pixels."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from d2_seesaw.data.sampling import Dataset, RepeatFactorSampling
from d2_seesaw.data.semantic.pixel_counts import class_pixel_counts


class SemanticRepeatFactorSampling(RepeatFactorSampling):
    """Repeat factor sampling (LVIS paper, appendix B.2) over the classes of label maps.

    An image I is shown ``r(I) = max over its classes c of max(1, sqrt(t / f(c)))`` times an epoch,
    where t is the threshold. f(c) is either the share of the images that hold a pixel of c, as the
    paper has it for objects, or the share of all pixels with a class that are of c. Shares of
    pixels of thin or small classes are far smaller, and so are useful thresholds. Classes without
    a pixel do not matter.

    Args:
        threshold: t, in ``(0, 1]``; images with a class of a smaller share are repeated.
        num_classes: C.
        frequency: What f(c) is a share of: ``"image"`` or ``"pixel"``.
        rounding: As for :class:`RepeatFactorSampling`.
        seed: As for :class:`RepeatFactorSampling`.
        ignore_label: Stands for pixels without a class.
        cache_folder: As for :func:`~d2_seesaw.data.class_pixel_counts`.

    Raises:
        ValueError: a threshold out of range, an unknown frequency or rounding; when the data set is
            given, label maps that cannot be counted.
    """

    FREQUENCIES = ("image", "pixel")

    def __init__(
        self,
        threshold: float,
        *,
        num_classes: int,
        frequency: str = "image",
        rounding: str = "stochastic",
        seed: int | None = None,
        ignore_label: int = 255,
        cache_folder: str | Path | None = None,
    ) -> None:
        super().__init__(threshold, rounding, seed)
        if frequency not in self.FREQUENCIES:
            raise ValueError(f"frequency must be one of {self.FREQUENCIES}, got {frequency!r}")
        self.num_classes = num_classes
        self.frequency = frequency
        self.ignore_label = ignore_label
        self.cache_folder = cache_folder

    def _unrounded_factors(self, dataset: Dataset) -> Tensor:
        pixels = class_pixel_counts(
            dataset, self.num_classes, self.ignore_label, cache_folder=self.cache_folder
        )
        present = pixels > 0
        counts = present if self.frequency == "image" else pixels
        total = len(dataset) if self.frequency == "image" else pixels.sum()
        with np.errstate(
            divide="ignore", invalid="ignore"
        ):  # classes without a pixel are in no image
            class_factors = np.sqrt(self.threshold * total / counts.sum(axis=0))
        factors = np.where(present, class_factors, 1.0).max(axis=1, initial=1.0)
        return torch.from_numpy(factors.astype(np.float32))
