"""The long tail of a dataset in numbers: groups, object sizes, repeat factors.

Shapes in this module:
    A: annotations
    C: categories
    N: images
    P: pairs of an image and a category that it shows
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from d2_seesaw.data.annotations.table import AnnotationTable
from d2_seesaw.data.frequency import GROUPS, frequency_group

THRESHOLDS = (0.001, 0.003, 0.01, 0.03, 0.1)
"""Thresholds of repeat factor sampling whose effects are compared."""

SIZE_BOUNDS = (8, 16, 32, 64, 128, 256, 512, 1024)
"""Bounds of the histogram of object sizes, in pixels; a size is the root of a box's area."""


@dataclass(frozen=True)
class CategoryOverview:
    """A category in numbers.

    Attributes:
        category_id: Its id in the annotation file.
        name: Its name.
        group: ``"r"``, ``"c"`` or ``"f"``, by ``train_images``.
        train_images: Images of the training split that show it.
        images: Images of this split that show it.
        objects: Its objects in this split.
        median_size: Root of the area of its boxes in pixels, the median; 0 without objects.
        repeat_factor: Of the category in this split, 1 where it is frequent enough.
    """

    category_id: Any
    name: str
    group: str
    train_images: int
    images: int
    objects: int
    median_size: float
    repeat_factor: float


@dataclass(frozen=True)
class ThresholdEffect:
    """The effect of a threshold of repeat factor sampling.

    Attributes:
        threshold: t.
        images: Images with at least one object that is not a crowd.
        repeated_images: Images whose repeat factor is above 1.
        mean_factor: Mean repeat factor of the images; 1 without images.
    """

    threshold: float
    images: int
    repeated_images: int
    mean_factor: float

    def __str__(self) -> str:
        return (
            f"threshold {self.threshold:g}: {self.repeated_images:,} of {self.images:,} images "
            f"repeated, mean repeat factor {self.mean_factor:.2f}"
        )


@dataclass(frozen=True)
class DatasetOverview:
    """A dataset in numbers.

    Attributes:
        images: Number of images.
        trained_images: Number of images with at least one object that is not a crowd.
        objects: Number of annotations.
        categories: In order of their ids.
        object_sizes: ``len(SIZE_BOUNDS) + 1`` numbers of objects: below the first bound, from each
            to the next, and from the last on.
        threshold: t of repeat factor sampling.
        epoch: Images of an epoch with repeat factor sampling, on average.
        repeated_images: Images whose repeat factor is above 1.
        thresholds: The effects of other thresholds.
    """

    images: int
    trained_images: int
    objects: int
    categories: Sequence[CategoryOverview]
    object_sizes: Sequence[int]
    threshold: float
    epoch: float
    repeated_images: int
    thresholds: Sequence[ThresholdEffect] = ()

    def groups(self) -> dict[str, list[CategoryOverview]]:
        """Return the categories of each group ``"r"``, ``"c"`` and ``"f"``."""
        return {group: [c for c in self.categories if c.group == group] for group in GROUPS}

    def to_json(self) -> dict[str, Any]:
        """Return everything in a JSON-serializable form."""
        groups = {group: len(categories) for group, categories in self.groups().items()}
        return {**asdict(self), "size_bounds": SIZE_BOUNDS, "groups": groups}


def dataset_overview(
    table: AnnotationTable,
    *,
    train_images: Mapping[Any, int] | None = None,
    threshold: float = 1e-3,
) -> DatasetOverview:
    """Describe a dataset in numbers.

    Args:
        table: its annotations; those that training leaves out are not counted.
        train_images: training images of each category id; by default those of this dataset.
        threshold: t of repeat factor sampling, in ``(0, 1]``.

    Raises:
        ValueError: a threshold out of range.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be in (0, 1], got {threshold}")
    C = len(table.categories)
    images = table.image_counts()
    image, category = table.image[table.usable], table.category[table.usable]
    repeats = _Repeats.of(table)
    objects = np.bincount(category, minlength=C)
    sizes = np.sqrt(np.clip(table.box[table.usable, 2] * table.box[table.usable, 3], 0, None))
    by_category = np.split(sizes[np.argsort(category)], np.cumsum(objects)[:-1])
    of_category, of_image = repeats.factors(threshold)
    counts = train_images or {}
    categories = [
        CategoryOverview(
            category_id=category["id"],
            name=category["name"],
            group=frequency_group(counted),
            train_images=counted,
            images=int(images[c]),
            objects=int(objects[c]),
            median_size=float(np.median(by_category[c])) if objects[c] else 0.0,
            repeat_factor=float(of_category[c]),
        )
        for c, category in enumerate(table.categories)
        for counted in [counts.get(category["id"], 0) if train_images else int(images[c])]
    ]
    return DatasetOverview(
        images=len(table.images),
        trained_images=len(of_image),
        objects=len(image),
        categories=categories,
        object_sizes=np.bincount(
            np.searchsorted(SIZE_BOUNDS, sizes, side="right"), minlength=len(SIZE_BOUNDS) + 1
        ).tolist(),
        threshold=threshold,
        epoch=float(of_image.sum()),
        repeated_images=int((of_image > 1).sum()),
        thresholds=threshold_effects(table),
    )


def threshold_effects(table: AnnotationTable) -> list[ThresholdEffect]:
    """Compute what each of ``THRESHOLDS`` repeats.

    Args:
        table: annotations. Those of unknown images or categories are left out.
    """
    repeats, effects = _Repeats.of(table), []
    for threshold in THRESHOLDS:
        _, factors = repeats.factors(threshold)
        mean = float(factors.mean()) if len(factors) else 1.0
        repeated = int((factors > 1).sum())
        effects.append(ThresholdEffect(threshold, len(factors), repeated, mean))
    return effects


@dataclass(frozen=True)
class _Repeats:
    """What repeat factors are computed from (LVIS, appendix B.2).

    Attributes:
        image: ``(P,)`` index among the N trained images, one for each category that an image shows.
        category: ``(P,)`` index of that category.
        images: N.
        categories: C.
    """

    image: np.ndarray
    category: np.ndarray
    images: int
    categories: int

    @classmethod
    def of(cls, table: AnnotationTable) -> "_Repeats":
        """Collect the pairs of images and categories that training sees."""
        C = len(table.categories)
        known = table.usable & (table.image >= 0) & (table.category >= 0)
        known &= ~np.isnan(table.box).any(axis=1)
        trained = np.zeros(len(table.images), bool)
        trained[table.image[known & ~table.crowd]] = True
        shown = known
        shown[known] = trained[table.image[known]]  # beside an object that is not a crowd
        index = np.cumsum(trained) - 1
        pairs = index[table.image[shown]] * max(C, 1) + table.category[shown]
        pairs.sort()  # faster than np.unique
        pairs = pairs[np.diff(pairs, prepend=-1) > 0]
        image, category = np.divmod(pairs, max(C, 1))
        return cls(image, category, int(trained.sum()), C)

    def factors(self, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        """Return ``(C,)`` repeat factors of the categories and ``(N,)`` of the trained images."""
        share = np.bincount(self.category, minlength=self.categories) / max(self.images, 1)
        # A category that no image shows needs no repetition.
        of_category = np.sqrt(threshold / np.where(share > 0, share, 1)).clip(min=1)
        of_image = np.ones(self.images)
        np.maximum.at(of_image, self.image, of_category[self.category])
        return of_category, of_image
