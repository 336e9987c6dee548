"""Annotations in COCO or LVIS format as arrays: quick to keep, to read again and to make dicts of.

Shapes in this module:
    A: annotations
    P: polygons of all annotations
    X: coordinates of all polygons
    B: bytes of all run-length encodings
"""

import contextlib
import gc
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from d2_seesaw.data.annotations.shared_numbers import SharedNumbers
from d2_seesaw.utils.progress import Progress

_ANNOTATIONS_PER_UPDATE = 1000

FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")


@dataclass(frozen=True)
class AnnotationColumns:
    """The content of an annotation file that training needs.

    Attributes:
        images: N dicts, in order of their ids, with ``id``, ``height``, ``width``, ``file_name``
            or ``coco_url``, and LVIS's federated fields where the file has them.
        categories: C dicts, in order of their ids, with ``id`` and ``name``, which is text.
        left_out: How many annotations are not in the columns, by the reason.
        image: ``(A,)`` indices into ``images``.
        category: ``(A,)`` indices into ``categories``.
        box: ``(A, 4)`` left, top, width and height, as in the file.
        crowd: ``(A,)`` whether an annotation stands for a crowd.
        polygons_end: ``(A,)`` number of polygons of this annotation and those before.
        polygon_end: ``(P,)`` number of coordinates of this polygon and those before.
        coordinates: ``(X,)`` x and y of all polygons in turn.
        rle_end: ``(A,)`` number of bytes of the run-length encodings up to this annotation.
        rle: ``(B,)`` compressed run-length encodings.
        rle_size: ``(A, 2)`` their heights and widths.
    """

    images: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    left_out: dict[str, int]
    image: np.ndarray
    category: np.ndarray
    box: np.ndarray
    crowd: np.ndarray
    polygons_end: np.ndarray
    polygon_end: np.ndarray
    coordinates: np.ndarray
    rle_end: np.ndarray
    rle: np.ndarray
    rle_size: np.ndarray

    def image_counts(self) -> np.ndarray:
        """``(C,)`` number of images in which each category occurs."""
        C = len(self.categories)
        pairs = np.unique(self.image.astype(np.int64) * C + self.category)
        return np.bincount(pairs % C, minlength=C)

    def records(self, file_name: Callable[[Mapping[str, Any]], str]) -> list[dict[str, Any]]:
        """Images as dicts in Detectron2's format, those without annotations included.

        Where the file says which categories were verified to be absent, the image has them as
        ``neg_category_ids``, ids of the file, and as ``negative_classes``, which count from 0.

        Args:
            file_name: the path of an entry of ``images``.
        """
        class_of = {category["id"]: index for index, category in enumerate(self.categories)}
        records = [self._record(image, file_name(image), class_of) for image in self.images]
        order = np.argsort(self.image, kind="stable")
        images = self.image[order].tolist()
        work = {"total": len(order), "unit": "annotation"}
        with collection_paused(), Progress("making records", **work) as progress:
            annotations = self._annotations(order, progress)
            for image, annotation in zip(images, annotations, strict=True):
                records[image]["annotations"].append(annotation)
        return records

    def annotations_of(self, image: int, category: int) -> list[dict[str, Any]]:
        """Annotations of one category in one image, both as indices, in Detectron2's format."""
        chosen = np.flatnonzero((self.image == image) & (self.category == category))
        return list(self._annotations(chosen))

    def _annotations(
        self, order: np.ndarray, progress: Progress | None = None
    ) -> Iterator[dict[str, Any]]:
        categories, crowds = self.category[order].tolist(), self.crowd[order].tolist()
        share = progress is not None  # to look through all coordinates is a waste for a few
        numbers = SharedNumbers(self.coordinates, share=share)
        boxes = SharedNumbers(self.box[order].reshape(-1), share=share).rows(4)
        segmentations = self._segmentations(order.tolist(), numbers)
        for i, (box, category, crowd, segmentation) in enumerate(
            zip(boxes, categories, crowds, segmentations, strict=True), 1
        ):
            annotation: dict[str, Any] = {
                "bbox": box,
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": category,
            }
            if segmentation:
                annotation["segmentation"] = segmentation
            if crowd:
                annotation["iscrowd"] = 1
            yield annotation
            if progress and (i % _ANNOTATIONS_PER_UPDATE == 0 or i == len(boxes)):
                progress.update(i - progress.done)

    @staticmethod
    def _record(image: Mapping[str, Any], path: str, class_of: Mapping[Any, int]) -> dict[str, Any]:
        record = {
            "file_name": path,
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
            "annotations": [],
        }
        record |= {key: image[key] for key in FEDERATED if key in image}
        if "neg_category_ids" in record:
            absent = record["neg_category_ids"]
            record["negative_classes"] = [class_of[i] for i in absent if i in class_of]
        return record

    def _segmentations(self, order: Iterable[int], numbers: SharedNumbers) -> Iterator[Any]:
        """Polygons, a run-length encoding or None of each annotation in ``order``."""
        polygons = [0, *self.polygons_end.tolist()]
        points = [0, *self.polygon_end.tolist()]
        rles = [0, *self.rle_end.tolist()]
        for i in order:
            first, last = polygons[i], polygons[i + 1]
            if last > first:
                yield [numbers.slice(points[p], points[p + 1]) for p in range(first, last)]
            elif rles[i + 1] > rles[i]:
                counts = self.rle[rles[i] : rles[i + 1]].tobytes().decode("ascii")
                yield {"size": self.rle_size[i].tolist(), "counts": counts}
            else:
                yield None


ARRAYS = tuple(f.name for f in fields(AnnotationColumns) if f.type is np.ndarray)


def category_name(category: Mapping[str, Any]) -> str:
    """What a category of an annotation file is called: its name as text, or else its id."""
    name = category.get("name")
    return str(category["id"] if name is None else name)


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """Spare millions of new objects, none of them garbage, the searches for cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
