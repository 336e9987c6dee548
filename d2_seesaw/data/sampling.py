"""Sampling of training images: each once per epoch, or images of rare classes more often.

A config names one of these objects. The loader passes its loaded dataset, so that annotations are
read once.
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

from d2_seesaw.data.annotations.records import Records
from d2_seesaw.data.semantic.pixel_counts import class_pixel_counts

logger = logging.getLogger(__name__)

Dataset = Sequence[dict[str, Any]]
"""Images as dicts in Detectron2's format."""


class Sampling(Protocol):
    """Strategy for how often the images of a dataset are sampled.

    Attributes:
        seed: seed of the order; None draws one.
    """

    seed: int | None

    def sampler(self, dataset: Dataset, seed: int) -> Sampler[int]:
        """Return the infinite stream of indices into ``dataset`` that all ranks share.

        The stream depends on the arguments alone and is the same each time it is read, because a
        resumed training reads it again.
        """
        ...

    def images_per_epoch(self, dataset: Dataset) -> float:
        """Return the mean number of images per epoch over ``dataset``, repeats included."""
        ...


class RandomSampling:
    """Sampling of every image once per epoch, in random order.

    Args:
        seed: seed of the order, the same on all ranks; drawn and shared by the ranks by default.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed

    def sampler(self, dataset: Dataset, seed: int) -> Sampler[int]:
        """Return Detectron2's ``TrainingSampler`` over ``dataset``, for all ranks together."""
        return _of_all_ranks(TrainingSampler(len(dataset), seed=seed))

    def images_per_epoch(self, dataset: Dataset) -> float:
        """Return the number of images."""
        return float(len(dataset))


class _RepeatFactorSampler(RepeatFactorTrainingSampler):
    """Detectron2's sampler with the same epochs, computed a hundred times as fast.

    A resumed training computes all epochs from the first one on.
    """

    def _get_epoch_indices(self, generator: torch.Generator) -> Tensor:
        draws = torch.rand(len(self._frac_part), generator=generator)
        repeats = self._int_part + (draws < self._frac_part).float()
        return torch.repeat_interleave(repeats.long())


def _of_all_ranks(sampler: Any) -> Sampler[int]:
    """Return one of Detectron2's samplers, which yields the indices of all ranks from now on."""
    sampler._rank, sampler._world_size = 0, 1
    return sampler


class RepeatFactorSampling:
    """Repeat factor sampling (LVIS paper, appendix B.2), which repeats images of rare categories.

    An image I is sampled ``r(I) = max over its categories c of max(1, sqrt(t / f(c)))`` times per
    epoch, where ``f(c)`` is the fraction of images that contain c and t is the threshold.

    Args:
        threshold: t, in ``(0, 1]``; categories in a smaller fraction of the images are repeated.
        rounding: ``"stochastic"`` rounds r(I) up or down at random in each epoch (Detectron2);
            ``"ceil"`` always rounds up, so r = 1.05 gives two copies (mmdet).
        seed: seed of the order, the same on all ranks; drawn and shared by the ranks by default.

    Raises:
        ValueError: the threshold is out of range, or the rounding is unknown.
    """

    ROUNDINGS = ("stochastic", "ceil")

    def __init__(
        self, threshold: float = 1e-3, rounding: str = "stochastic", seed: int | None = None
    ) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold must be in (0, 1], got {threshold}")
        if rounding not in self.ROUNDINGS:
            raise ValueError(f"rounding must be one of {self.ROUNDINGS}, got {rounding!r}")
        self.threshold = threshold
        self.rounding = rounding
        self.seed = seed
        self._factors_of: tuple[Dataset, Tensor] | None = None

    def repeat_factors(self, dataset: Dataset) -> Tensor:
        """Return ``(len(dataset),)`` float32 repeat factors, integers for ``rounding="ceil"``."""
        if self._factors_of is None or self._factors_of[0] is not dataset:
            self._factors_of = dataset, self._compute(dataset)
        return self._factors_of[1]

    def sampler(self, dataset: Dataset, seed: int) -> Sampler[int]:
        """Return Detectron2's sampler with these factors, for all ranks together."""
        return _of_all_ranks(_RepeatFactorSampler(self.repeat_factors(dataset), seed=seed))

    def images_per_epoch(self, dataset: Dataset) -> float:
        """Return the sum of the repeat factors, the expected length of an epoch."""
        return float(self.repeat_factors(dataset).double().sum())

    def _compute(self, dataset: Dataset) -> Tensor:
        factors = self._unrounded_factors(dataset)
        if self.rounding == "ceil":
            factors = torch.ceil(factors)
        logger.info(
            "Repeat factor sampling (threshold %g, %s): %d images become %.0f per epoch; "
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
        """Return ``(len(dataset),)`` float32 r(I)."""
        if isinstance(dataset, Records):
            return torch.from_numpy(_factors_of_records(dataset, self.threshold))
        # Detectron2 logs one line per category here: 1,203 of them for LVIS, most "freq=0.00".
        host_logger = logging.getLogger("detectron2.data.samplers.distributed_sampler")
        was_disabled, host_logger.disabled = host_logger.disabled, True
        try:
            return RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
                dataset, self.threshold
            )
        finally:
            host_logger.disabled = was_disabled


def _factors_of_records(records: Records, threshold: float) -> np.ndarray:
    """Return ``(N,)`` float32 r(I), the same as Detectron2's, without building all dicts."""
    N = len(records)
    image, category = records.image_and_class()
    number = int(category.max(initial=-1)) + 1
    pairs = np.unique(image.astype(np.int64) * max(1, number) + category)
    image, category = np.divmod(pairs, max(1, number))
    counts = np.bincount(category, minlength=number)
    of_category = np.sqrt(threshold / (np.maximum(counts, 1) / max(1, N)))
    factors = np.ones(N)
    np.maximum.at(factors, image, of_category[category])
    return factors.astype(np.float32)


class SemanticRepeatFactorSampling(RepeatFactorSampling):
    """Repeat factor sampling (LVIS paper, appendix B.2) over the classes of label maps.

    An image I is sampled ``r(I) = max over its classes c of max(1, sqrt(t / f(c)))`` times per
    epoch, where t is the threshold. f(c) is either the fraction of images with a pixel of c, as for
    objects in the paper, or the fraction of c among all pixels with a class. Pixel fractions of
    thin or small classes are far smaller, and so are useful thresholds. Classes without pixels have
    no effect.

    Args:
        threshold: t, in ``(0, 1]``; images with a class of a smaller fraction are repeated.
        num_classes: C.
        frequency: definition of f(c): ``"image"`` or ``"pixel"``.
        rounding: as in :class:`RepeatFactorSampling`.
        seed: as in :class:`RepeatFactorSampling`.
        ignore_label: label of pixels without a class.
        cache_folder: as in :func:`~d2_seesaw.data.class_pixel_counts`.

    Raises:
        ValueError: the threshold is out of range, or frequency or rounding is unknown. When the
            dataset is used: label maps cannot be counted.
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
        ):  # classes without pixels have a count of 0
            class_factors = np.sqrt(self.threshold * total / counts.sum(axis=0))
        factors = np.where(present, class_factors, 1.0).max(axis=1, initial=1.0)
        return torch.from_numpy(factors.astype(np.float32))
