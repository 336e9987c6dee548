"""Samplers that draw a class first, then an image of it (Kang et al., ICLR 2020, section 3).

Class j of C, with n_j of the training images, is drawn with probability

    p_j = n_j^q / sum_i n_i^q

q = 1 draws images equally often (instance-balanced), 0 classes equally often (class-balanced), 1/2
lies in between (square root). Progressively balanced sampling goes from q = 1 to q = 0 over the
epochs. For detection, n_j is the number of images with an object of class j; an image is drawn for
one of its classes.

Shapes in this module:
    N: images
    C: classes
    P: pairs of a class and an image that shows it
"""

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from d2_seesaw.data.sampling import Dataset

logger = logging.getLogger(__name__)


class ClassSampling:
    """Sampling of classes by a power of their number of images, and of images within a class.

    An epoch has as many images as the dataset. Class j is drawn ``N p_j`` times in it, rounded up
    or down at random such that the mean is exact. The images of a class are shown once each, in
    random order, before one of them is repeated within an epoch. Classes without images are never
    drawn. With ``exponent=1`` and one label per image, each image is shown once per epoch.

    Args:
        exponent: q, in ``[0, 1]``.
        seed: seed of the order, the same on all ranks; drawn and shared by the ranks by default.

    Raises:
        ValueError: the exponent is out of range.
    """

    def __init__(self, exponent: float, *, seed: int | None = None) -> None:
        if not 0 <= exponent <= 1:
            raise ValueError(f"exponent must be in [0, 1], got {exponent}")
        self.exponent = exponent
        self.seed = seed
        self._pairs_of: tuple[Dataset, np.ndarray] | None = None

    @property
    def identity(self) -> tuple[Any, ...]:
        """Options that the order depends on, beside the seed."""
        return (self.exponent,)

    def probabilities(self, image_counts: np.ndarray, epoch: int) -> np.ndarray:
        """Return ``(C,)`` probabilities of the classes.

        Args:
            image_counts: ``(C,)`` images of each class.
            epoch: number of the epoch, from 0.
        """
        del epoch  # for subclasses
        return _power(image_counts, self.exponent)

    def sampler(self, dataset: Dataset, seed: int) -> Sampler[int]:
        """Return the infinite stream of indices into ``dataset`` for all ranks together."""
        return _ClassSampler(self, self._pairs(dataset), len(dataset), seed)

    def images_per_epoch(self, dataset: Dataset) -> float:
        """Return the number of images."""
        self._pairs(dataset)  # refuses a dataset without classes before the training
        return float(len(dataset))

    def _pairs(self, dataset: Dataset) -> np.ndarray:
        """Return ``(P, 2)`` int64 pairs of class and image, sorted."""
        if self._pairs_of is None or self._pairs_of[0] is not dataset:
            self._pairs_of = dataset, _class_image_pairs(dataset)
            counts = np.bincount(self._pairs_of[1][:, 0])
            logger.info(
                "%s: %d classes with %d to %d of %d images",
                *(type(self).__name__, (counts > 0).sum(), counts[counts > 0].min()),
                *(counts.max(), len(dataset)),
            )
        return self._pairs_of[1]


class ClassBalancedSampling(ClassSampling):
    """:class:`ClassSampling` in which all classes are equally likely (q = 0).

    Args:
        seed: as in :class:`ClassSampling`.
    """

    def __init__(self, *, seed: int | None = None) -> None:
        super().__init__(0.0, seed=seed)


class SquareRootSampling(ClassSampling):
    """:class:`ClassSampling` by the square root of the number of images (q = 1/2).

    Args:
        seed: as in :class:`ClassSampling`.
    """

    def __init__(self, *, seed: int | None = None) -> None:
        super().__init__(0.5, seed=seed)


class ProgressivelyBalancedSampling(ClassSampling):
    """:class:`ClassSampling` that moves from instance-balanced to class-balanced over the epochs.

    In epoch t = 0, 1, ..., T - 1, ``p_j = (1 - a) n_j / sum_i n_i + a / C`` with
    ``a = t / (T - 1)``, as in the authors' code; later epochs are class-balanced.

    Args:
        epochs: T, at least 1.
        seed: as in :class:`ClassSampling`.

    Raises:
        ValueError: ``epochs`` is less than 1.
    """

    def __init__(self, epochs: int, *, seed: int | None = None) -> None:
        super().__init__(1.0, seed=seed)
        if epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {epochs}")
        self.epochs = epochs

    @property
    def identity(self) -> tuple[Any, ...]:
        """Options that the order depends on, beside the seed."""
        return (self.epochs,)

    def probabilities(self, image_counts: np.ndarray, epoch: int) -> np.ndarray:
        """Return ``(C,)`` probabilities of the classes in an epoch."""
        balance = min(epoch / max(self.epochs - 1, 1), 1.0)
        by_image, by_class = _power(image_counts, 1.0), _power(image_counts, 0.0)
        return (1 - balance) * by_image + balance * by_class


def _power(counts: np.ndarray, exponent: float) -> np.ndarray:
    weights = np.where(counts > 0, counts.astype(np.float64) ** exponent, 0.0)
    return weights / weights.sum()


def _class_image_pairs(dataset: Dataset) -> np.ndarray:
    pairs = [
        (category, index)
        for index, record in enumerate(dataset)
        for category in {a["category_id"] for a in record.get("annotations", ())}
    ]
    if not pairs:
        raise ValueError(
            "sampling by classes needs images with annotations, and the training data have none"
        )
    return np.array(sorted(pairs), dtype=np.int64)


class _ClassSampler(Sampler[int]):
    """Endless indices, an epoch at a time; each epoch depends on the seed and its number alone."""

    def __init__(
        self, sampling: ClassSampling, pairs: np.ndarray, num_images: int, seed: int
    ) -> None:
        self.sampling = sampling
        self.pairs = pairs
        self.num_images = num_images
        self.seed = seed
        self.counts = np.bincount(pairs[:, 0])

    def __iter__(self) -> Iterator[int]:
        epoch = 0
        while True:
            yield from self.epoch(epoch).tolist()
            epoch += 1

    def epoch(self, number: int) -> np.ndarray:
        """Return the ``(N,)`` indices of an epoch."""
        rng = np.random.default_rng([self.seed, number])
        bounds = self.sampling.probabilities(self.counts, number).cumsum()
        # Systematic sampling: points at equal distances, from a random start.
        points = (rng.random() + np.arange(self.num_images)) / self.num_images
        classes = np.searchsorted(bounds, points * bounds[-1], side="right")
        draws = np.bincount(classes.clip(max=len(bounds) - 1), minlength=len(bounds))
        return rng.permutation(self._images(rng, draws))

    def _images(self, rng: np.random.Generator, draws: np.ndarray) -> np.ndarray:
        """Draw images of each class: all of them in random order, before one is repeated."""
        rounds = -(-draws // np.maximum(self.counts, 1))
        of_class = np.repeat(np.arange(len(draws)), rounds)
        # One block for each class and round, with the images of the class.
        sizes = self.counts[of_class]
        block = np.repeat(np.arange(len(of_class)), sizes)
        within = np.arange(len(block)) - np.repeat(sizes.cumsum() - sizes, sizes)
        first = self.counts.cumsum() - self.counts
        images = self.pairs[np.repeat(first[of_class], sizes) + within, 1]
        images = images[np.lexsort((rng.random(len(block)), block))]
        # The last round of a class may be incomplete.
        totals = np.bincount(of_class[block], minlength=len(draws))
        rank = np.arange(len(block)) - np.repeat(totals.cumsum() - totals, totals)
        return images[rank < np.repeat(draws, totals)]
