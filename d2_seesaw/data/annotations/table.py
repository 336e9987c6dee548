"""The content of an annotation file as arrays.

Shapes in this module:
    A: annotations
    P: polygons of all annotations
    X: coordinates of all polygons
    B: bytes of all run-length encodings
    C: categories
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from pycocotools import mask as coco_mask

from d2_seesaw.data.annotations.records import Records

LONGEST_EMPTY_RLE = 20  # bytes of few runs, some of them perhaps of length 0


@dataclass(frozen=True)
class AnnotationTable:
    """The content of an annotation file that training, checking and evaluation need.

    Attributes:
        images: Dicts, in order of their ids, with ``id``, ``height``, ``width``, ``file_name``
            or ``coco_url``, and LVIS's federated fields where the file has them.
        categories: C dicts, in order of their ids, with ``id`` and ``name``, which is text, and
            ``image_count`` and ``frequency`` where the file has them.
        annotation_id: ``(A,)`` ids in the file; rows are in the order of the file.
        image: ``(A,)`` indices into ``images``.
        category: ``(A,)`` indices into ``categories``.
        box: ``(A, 4)`` left, top, width and height, as in the file.
        area: ``(A,)`` areas as in the file, or of the mask or box where it has none.
        crowd: ``(A,)`` whether an annotation stands for a crowd.
        ignored: ``(A,)`` whether the file says that evaluation ignores the object.
        polygon_offsets: ``(A + 1,)``; annotation i has polygons ``[offsets[i], offsets[i + 1])``.
        coordinate_offsets: ``(P + 1,)`` the same for the coordinates of the polygons.
        coordinates: ``(X,)`` x and y of all polygons in turn.
        rle_offsets: ``(A + 1,)`` the same for the bytes of the run-length encodings.
        rle: ``(B,)`` compressed run-length encodings.
        rle_size: ``(A, 2)`` their heights and widths.
    """

    images: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    annotation_id: np.ndarray
    image: np.ndarray
    category: np.ndarray
    box: np.ndarray
    area: np.ndarray
    crowd: np.ndarray
    ignored: np.ndarray
    polygon_offsets: np.ndarray
    coordinate_offsets: np.ndarray
    coordinates: np.ndarray
    rle_offsets: np.ndarray
    rle: np.ndarray
    rle_size: np.ndarray

    @cached_property
    def image_sizes(self) -> np.ndarray:
        """``(A, 2)`` width and height of the image of each annotation, NaN where it is unknown."""
        sizes = [[i.get("width", np.nan), i.get("height", np.nan)] for i in self.images]
        return np.array([*sizes, [np.nan, np.nan]], float)[self.image]  # index -1 is the last

    @cached_property
    def has_segmentation(self) -> np.ndarray:
        """``(A,)`` whether an annotation has polygons or a run-length encoding."""
        return (np.diff(self.polygon_offsets) > 0) | (np.diff(self.rle_offsets) > 0)

    @cached_property
    def without_pixel(self) -> np.ndarray:
        """``(A,)`` whether an annotation has a run-length encoding that covers no pixel."""
        empty = np.zeros(len(self.image), bool)
        lengths = np.diff(self.rle_offsets)
        for row in np.flatnonzero((lengths > 0) & (lengths < LONGEST_EMPTY_RLE)).tolist():
            empty[row] = not coco_mask.area(self.segmentation(row))
        return empty

    @cached_property
    def usable(self) -> np.ndarray:
        """``(A,)`` whether a model can be trained on an annotation.

        Its box has an area, and it has a mask with a pixel, or no annotation has a segmentation.
        """
        with_box = np.all(self.box[:, 2:] > 0, axis=1)
        if not self.has_segmentation.any():
            return with_box
        return with_box & self.has_segmentation & ~self.without_pixel

    def image_counts(self) -> np.ndarray:
        """Return ``(C,)`` numbers of images in which training sees each category."""
        C = len(self.categories)
        pairs = self.image[self.usable].astype(np.int64) * C + self.category[self.usable]
        return np.bincount(np.unique(pairs) % max(C, 1), minlength=C)

    def segmentation(self, row: int) -> Any:
        """Return the polygons, the compressed run-length encoding, or None of an annotation."""
        first, last = int(self.polygon_offsets[row]), int(self.polygon_offsets[row + 1])
        if last > first:
            bounds = pairwise(self.coordinate_offsets[first : last + 1].tolist())
            return [self.coordinates[start:stop].tolist() for start, stop in bounds]
        start, stop = int(self.rle_offsets[row]), int(self.rle_offsets[row + 1])
        if stop > start:
            counts = self.rle[start:stop].tobytes().decode("ascii")
            return {"size": self.rle_size[row].tolist(), "counts": counts}
        return None

    def annotations(
        self,
        rows: np.ndarray,
        *,
        with_masks: bool = True,
        share: Callable[[np.ndarray], np.ndarray] = np.asarray,
    ) -> list[dict[str, Any]]:
        """Return annotations in Detectron2's format.

        Args:
            rows: the annotations.
            with_masks: add their ``segmentation``.
            share: replaces equal numbers by one object.
        """
        columns = (share(self.box[rows]), self.category[rows], self.crowd[rows])
        made = []
        for box, category, crowd in zip(*(column.tolist() for column in columns), strict=True):
            annotation = {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": category}
            if crowd:
                annotation["iscrowd"] = 1
            made.append(annotation)
        if with_masks and made:
            masks = self._training_segmentations(rows, share)
            for annotation, segmentation in zip(made, masks, strict=True):
                if segmentation:
                    annotation["segmentation"] = segmentation
        return made

    def _training_segmentations(
        self, rows: np.ndarray, share: Callable[[np.ndarray], np.ndarray]
    ) -> Iterator[Any]:
        ends = (self.polygon_offsets[rows].tolist(), (self.polygon_offsets[rows + 1] + 1).tolist())
        bounds = [self.coordinate_offsets[a:b].tolist() for a, b in zip(*ends, strict=True)]
        # One call for all annotations, because each costs more than the numbers of a polygon.
        numbers = share(np.concatenate([self.coordinates[b[0] : b[-1]] for b in bounds]))
        end = 0
        for row, of_row in zip(rows.tolist(), bounds, strict=True):
            shift, end = end - of_row[0], end + of_row[-1] - of_row[0]
            polygons = [numbers[a + shift : b + shift].tolist() for a, b in pairwise(of_row)]
            yield polygons or self.segmentation(row)

    def annotations_of(self, image: int, category: int) -> list[dict[str, Any]]:
        """Return annotations of a category in an image, both as indices, as Detectron2's dicts."""
        chosen = (self.image == image) & (self.category == category) & self.usable
        return self.annotations(np.flatnonzero(chosen))

    def records(self, file_name: Callable[[Mapping[str, Any]], str]) -> Records:
        """Return all images as Detectron2's dicts, which are built when they are read.

        Args:
            file_name: returns the path of an entry of ``images``.
        """
        return Records(self, [file_name(image) for image in self.images])


ARRAYS = tuple(f.name for f in fields(AnnotationTable) if f.type is np.ndarray)
