"""The long tail of a dataset in numbers: groups, object sizes, repeat factors.

Shapes in this module:
    A: annotations
    C: categories
    N: images
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from d2_seesaw.data.annotations.table import AnnotationTable
from d2_seesaw.data.frequency import GROUPS, frequency_group

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
    """

    images: int
    trained_images: int
    objects: int
    categories: Sequence[CategoryOverview]
    object_sizes: Sequence[int]
    threshold: float
    epoch: float
    repeated_images: int

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
    objects = np.bincount(category, minlength=C)
    sizes = np.sqrt(np.clip(table.box[table.usable, 2] * table.box[table.usable, 3], 0, None))
    by_category = np.split(sizes[np.argsort(category)], np.cumsum(objects)[:-1])
    trained = np.unique(image[~table.crowd[table.usable]])
    of_category, of_image = _repeat_factors(table, trained, threshold)
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
        trained_images=len(trained),
        objects=len(image),
        categories=categories,
        object_sizes=np.bincount(
            np.searchsorted(SIZE_BOUNDS, sizes, side="right"), minlength=len(SIZE_BOUNDS) + 1
        ).tolist(),
        threshold=threshold,
        epoch=float(of_image.sum()),
        repeated_images=int((of_image > 1).sum()),
    )


def _repeat_factors(
    table: AnnotationTable, trained: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return repeat factors of the categories and the ``trained`` images (LVIS, appendix B.2)."""
    C = len(table.categories)
    shown = table.usable & np.isin(table.image, trained)
    image, category = table.image[shown], table.category[shown]
    pairs = np.unique(image.astype(np.int64) * max(C, 1) + category)
    share = np.bincount(pairs % max(C, 1), minlength=C) / max(len(trained), 1)
    # A category that no image shows needs no repetition.
    of_category = np.sqrt(threshold / np.where(share > 0, share, 1)).clip(min=1)
    of_image = np.ones(len(table.images))
    np.maximum.at(of_image, image, of_category[category])
    return of_category, of_image[trained]
