"""Measurements of a dataset that the choice of a config depends on.

Shapes in this module:
    N: images
    M: objects that training uses; crowds are left out
    C: categories
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from d2_seesaw.data.annotations.schema import FEDERATED
from d2_seesaw.data.annotations.table import AnnotationTable
from d2_seesaw.data.check.overview import ThresholdEffect, threshold_effects
from d2_seesaw.data.frequency import GROUP_NAMES, group_sizes

_QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class DatasetMeasures:
    """Measurements of a training split.

    Attributes:
        image_sizes: ``(N, 2)`` width and height in pixels.
        boxes: ``(M, 4)`` left, top, width and height in pixels.
        image: ``(M,)`` index of the image of each box.
        category: ``(M,)`` index of its category.
        image_counts: ``(C,)`` number of images in which training sees each category.
        names: C names of the categories.
        thresholds: effects of thresholds of repeat factor sampling.
        has_masks: whether any annotation has a mask.
        is_federated: whether the file says which categories were verified in an image.
        crowd_share: share of crowds among the annotations.
    """

    image_sizes: np.ndarray
    boxes: np.ndarray
    image: np.ndarray
    category: np.ndarray
    image_counts: np.ndarray
    names: Sequence[str]
    thresholds: Sequence[ThresholdEffect]
    has_masks: bool
    is_federated: bool
    crowd_share: float

    @cached_property
    def sides(self) -> np.ndarray:
        """``(M,)`` object sizes: the root of the area of a box, in pixels of the image."""
        return np.sqrt(self.boxes[:, 2] * self.boxes[:, 3])

    @cached_property
    def relative_sides(self) -> np.ndarray:
        """``(M,)`` object sizes as a share of the shorter edge of their image."""
        return self.sides / self.image_sizes[self.image].min(axis=1)

    @cached_property
    def objects_per_image(self) -> np.ndarray:
        """``(N,)`` numbers of objects."""
        return np.bincount(self.image, minlength=len(self.image_sizes))

    @cached_property
    def objects_per_category(self) -> np.ndarray:
        """``(C,)`` numbers of objects."""
        return np.bincount(self.category, minlength=len(self.names))

    @cached_property
    def trained_images(self) -> int:
        """Number of images with an object."""
        return int((self.objects_per_image > 0).sum())

    @cached_property
    def imbalance(self) -> float:
        """Number of images of the most frequent category over that of the rarest that occurs."""
        counts = self.image_counts[self.image_counts > 0]
        return float(counts.max() / counts.min()) if len(counts) else 1.0

    def text(self) -> str:
        """Return the measurements in a few lines."""
        edges = np.sort(self.image_sizes, axis=1)
        ratio = self.boxes[:, 3] / self.boxes[:, 2]
        groups = group_sizes(self.image_counts)
        kinds = [
            "masks" if self.has_masks else "boxes only",
            "federated" if self.is_federated else "every category annotated in every image",
        ]
        if self.crowd_share:
            kinds.append(f"{100 * self.crowd_share:.2g} % crowds")
        lines = [
            f"{len(self.image_sizes):,} images, {len(self.boxes):,} objects of {len(self.names):,} "
            f"categories; {', '.join(kinds)}",
            f"short edge of the images in pixels: {_spread(edges[:, 0])}; "
            f"long edge: {_spread(edges[:, 1])}",
            f"size of the objects in pixels: {_spread(self.sides)}; "
            f"in percent of the short edge: {_spread(100 * self.relative_sides)}",
            f"height / width of the boxes: {_spread(ratio)}",
            f"objects in an image: {_spread(self.objects_per_image)}, "
            f"at most {self.objects_per_image.max()}",
            "categories: " + ", ".join(f"{n} {GROUP_NAMES[g]}" for g, n in groups.items()),
        ]
        return "\n".join(lines)


def _spread(values: np.ndarray) -> str:
    found = np.quantile(values, _QUANTILES).tolist()
    low, middle, high = (f"{v:,.0f}" if v >= 100 else f"{v:.3g}" for v in found)
    return f"median {middle}, 90 % from {low} to {high}"


def measure(table: AnnotationTable) -> DatasetMeasures:
    """Measure a training split.

    Args:
        table: its annotations, as :func:`~d2_seesaw.data.annotations.reader.read_annotations`
            returns them.

    Raises:
        ValueError: no object can be trained on, or images have no size.
    """
    sizes = np.array([[i.get("width") or 0, i.get("height") or 0] for i in table.images], float)
    if not len(sizes) or not sizes.all():
        raise ValueError("the width and height of every image must be known to choose a config")
    used = np.flatnonzero(table.usable & ~table.crowd)
    if not len(used):
        raise ValueError("the training split has no object to train on")
    return DatasetMeasures(
        image_sizes=sizes,
        boxes=table.box[used],
        image=table.image[used],
        category=table.category[used],
        image_counts=table.image_counts(),
        names=[category["name"] for category in table.categories],
        thresholds=threshold_effects(table),
        has_masks=bool(table.has_segmentation.any()),
        is_federated=any(field in image for image in table.images for field in FEDERATED),
        crowd_share=float(table.crowd.mean()),
    )
