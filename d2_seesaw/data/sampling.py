"""How often each training image is shown: once an epoch, or more often where it holds rare classes.

A config names one of these objects; the loader hands it the data set it has loaded, so that the
annotations are read once however the images are sampled.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from torch import Tensor
from torch.utils.data import Sampler

from d2_seesaw.data.semantic.pixel_counts import class_pixel_counts

logger = logging.getLogger(__name__)

Dataset = Sequence[dict[str, Any]]
"""Images as dicts in Detectron2's format."""


class Sampling(Protocol):
    """Decides how often the images of a data set are shown."""

    def sampler(self, dataset: Dataset) -> Sampler[int]:
        """An endless stream of indices into ``dataset``, this rank's share of it."""
        ...

    def images_per_epoch(self, dataset: Dataset) -> float:
        """How many images, repeats included, one pass over ``dataset`` shows on average."""
        ...


class RandomSampling:
    """Every image once an epoch, in random order.

    Args:
        seed: of the order, the same on all ranks; by default drawn once and shared by the ranks.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed

    def sampler(self, dataset: Dataset) -> Sampler[int]:
        """Detectron2's ``TrainingSampler`` over ``dataset``."""
        return TrainingSampler(len(dataset), seed=self.seed)

    def images_per_epoch(self, dataset: Dataset) -> float:
        """The number of images."""
        return float(len(dataset))


class RepeatFactorSampling:
    """Repeat factor sampling (LVIS paper, appendix B.2): images of rare categories come more often.

    An image I is shown ``r(I) = max over its categories c of max(1, sqrt(t / f(c)))`` times an
    epoch, where ``f(c)`` is the share of the images that hold c and t the threshold.

    Args:
        threshold: t, in ``(0, 1]``; categories in a smaller share of the images are repeated.
        rounding: ``"stochastic"`` rounds r(I) up or down at random anew in each epoch
            (Detectron2), ``"ceil"`` always up, so r = 1.05 gives two copies (mmdet).
        seed: of the order, the same on all ranks; by default drawn once and shared by the ranks.

    Raises:
        ValueError: a threshold out of range or an unknown rounding.
    """

    ROUNDINGS = ("stochastic", "ceil")

    def __init__(
        self, threshold: float = 1e-3, rounding: str = "stochastic", seed: int | None = None
    ) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold must lie in (0, 1], got {threshold}")
        if rounding not in self.ROUNDINGS:
            raise ValueError(f"rounding must be one of {self.ROUNDINGS}, got {rounding!r}")
        self.threshold = threshold
        self.rounding = rounding
        self.seed = seed
        self._factors_of: tuple[Dataset, Tensor] | None = None

    def repeat_factors(self, dataset: Dataset) -> Tensor:
        """``(len(dataset),)`` float32 repeat factors, whole numbers for ``rounding="ceil"``."""
        if self._factors_of is None or self._factors_of[0] is not dataset:
            self._factors_of = dataset, self._compute(dataset)
        return self._factors_of[1]

    def sampler(self, dataset: Dataset) -> Sampler[int]:
        """Detectron2's ``RepeatFactorTrainingSampler`` with these factors."""
        return RepeatFactorTrainingSampler(self.repeat_factors(dataset), seed=self.seed)

    def images_per_epoch(self, dataset: Dataset) -> float:
        """The sum of the repeat factors: the expected length of an epoch."""
        return float(self.repeat_factors(dataset).double().sum())

    def _compute(self, dataset: Dataset) -> Tensor:
        factors = self._unrounded_factors(dataset)
        if self.rounding == "ceil":
            factors = torch.ceil(factors)
        logger.info(
            "Repeat factor sampling (threshold %g, %s): %d images become %.0f an epoch; "
            "%d are repeated, at most %.1f times",
            self.threshold,
            self.rounding,
            len(dataset),
            factors.double().sum(),
            int((factors > 1).sum()),
            factors.max() if len(factors) else 0,
        )
        return factors

    def _unrounded_factors(self, dataset: Dataset) -> Tensor:
        """``(len(dataset),)`` float32 r(I)."""
        # Detectron2 logs one line per category here: 1,203 of them for LVIS, most "freq=0.00".
        host_logger = logging.getLogger("detectron2.data.samplers.distributed_sampler")
        was_disabled, host_logger.disabled = host_logger.disabled, True
        try:
            return RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
                dataset, self.threshold
            )
        finally:
            host_logger.disabled = was_disabled


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
