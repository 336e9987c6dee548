"""Detectron2's dicts of a table's images, each built when it is read."""

from __future__ import annotations

import contextlib
import copy
import gc
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

import numpy as np

from d2_seesaw.data.annotations.schema import FEDERATED
from d2_seesaw.utils.progress import track

if TYPE_CHECKING:
    from d2_seesaw.data.annotations.table import AnnotationTable

_STEPS, _MOST_PIXELS = 100, 10_000  # steps of a pixel: most coordinates have two decimals


class Records(Sequence[dict[str, Any]]):
    """Images in Detectron2's format, those without annotations included.

    Each access builds a new dict, so a change of a dict does not change the dataset; ``to_list``
    gives dicts that keep changes. Processes that are forked share the memory of the table.

    Where the file says which categories were verified to be absent, the image has them as
    ``neg_category_ids``, ids of the file, and as ``negative_classes``, which count from 0.

    Args:
        table: the annotations.
        paths: the files of all images of the table.
    """

    def __init__(self, table: AnnotationTable, paths: Sequence[str]) -> None:
        self._table = table
        self._paths = paths
        self._images = np.arange(len(table.images))
        self._with_masks = True
        rows = np.flatnonzero(table.usable)
        self._rows = rows[np.argsort(table.image[rows], kind="stable")].astype(np.int32)
        places = np.arange(len(table.images) + 1)
        self._bounds = np.searchsorted(table.image[self._rows], places)
        self._class_of = {c["id"]: index for index, c in enumerate(table.categories)}

    def __len__(self) -> int:
        return len(self._images)

    @overload
    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> Records: ...

    def __getitem__(self, index: SupportsIndex | slice) -> dict[str, Any] | Records:
        if isinstance(index, slice):
            return self._changed(_images=self._images[index])
        return self._record(int(self._images[index]))

    def to_list(self) -> list[dict[str, Any]]:
        """Return all dicts. Equal coordinates share one object, which saves most of the memory."""
        share = _SharedFloats(self._table.coordinates)
        images = track(self._images.tolist(), "making records", unit="image")
        with _collection_paused():
            return [self._record(image, share) for image in images]

    def file_names(self) -> list[str]:
        """Return the files of the images."""
        return [self._paths[image] for image in self._images.tolist()]

    def sizes(self) -> np.ndarray:
        """Return ``(N, 2)`` widths and heights of the images."""
        images = map(self._table.images.__getitem__, self._images.tolist())
        return np.array(list(map(itemgetter("width", "height"), images))).reshape(-1, 2)

    def image_and_class(self, *, with_crowds: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Return ``(A,)`` places of the images of all annotations, and ``(A,)`` their classes."""
        first, last = self._bounds[self._images], self._bounds[self._images + 1]
        image = np.repeat(np.arange(len(self._images)), last - first)
        before = np.cumsum(last - first) - (last - first)  # annotations of earlier images
        rows = self._rows[np.arange(len(image)) + (first - before)[image]]
        if not with_crowds:
            kept = ~self._table.crowd[rows]
            image, rows = image[kept], rows[kept]
        return image, self._table.category[rows]

    def fingerprint(self) -> str:
        """Return a digest of names, ids and sizes of the images, and of the classes in them."""
        images = [self._table.images[image] for image in self._images.tolist()]
        names = [os.path.basename(name) for name in self.file_names()]
        counts = np.diff(self._bounds)[self._images]
        found = hashlib.sha256(
            str([(i["id"], n) for i, n in zip(images, names, strict=True)]).encode()
        )
        for numbers in (self.sizes(), counts, self._table.category[self._rows]):
            found.update(np.asarray(numbers, np.int64).tobytes())
        return found.hexdigest()[:32]

    def with_objects(self) -> Records:
        """Return the images with at least one annotation that is not a crowd."""
        with_objects = self._table.image[self._table.usable & ~self._table.crowd]
        return self._changed(_images=self._images[np.isin(self._images, with_objects)])

    def has_masks(self) -> bool:
        """Return whether an annotation of the file has a segmentation."""
        return bool(self._table.has_segmentation.any()) or not len(self._rows)

    def without_masks(self) -> Records:
        """Return the images without ``segmentation``, which are built many times faster."""
        return self._changed(_with_masks=False)

    def _changed(self, **attributes: Any) -> Records:
        changed = copy.copy(self)
        vars(changed).update(attributes)
        return changed

    def _record(
        self, index: int, share: Callable[[np.ndarray], np.ndarray] = np.asarray
    ) -> dict[str, Any]:
        image = self._table.images[index]
        rows = self._rows[self._bounds[index] : self._bounds[index + 1]]
        masks: dict[str, Any] = {"with_masks": self._with_masks, "share": share}
        record = {
            "file_name": self._paths[index],
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
            "annotations": self._table.annotations(rows, **masks),
        }
        record |= {key: list(image[key]) for key in FEDERATED if key in image}
        if "neg_category_ids" in record:
            absent = record["neg_category_ids"]
            record["negative_classes"] = [self._class_of[i] for i in absent if i in self._class_of]
        return record


@contextlib.contextmanager
def _collection_paused() -> Iterator[None]:
    """Spare millions of new objects, none of them garbage, the searches for cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _SharedFloats:
    """Arrays of objects in which equal numbers of two decimals are one object."""

    def __init__(self, numbers: np.ndarray) -> None:
        steps = int(min(numbers.max(initial=0), _MOST_PIXELS)) * _STEPS + _STEPS
        self._objects = (np.arange(steps) / _STEPS).astype(object)

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        steps = np.rint(numbers * _STEPS)
        in_table = steps.min(initial=0) >= 0 and steps.max(initial=0) < len(self._objects)
        if in_table and (steps / _STEPS == numbers).all():
            return self._objects.take(steps.astype(np.intp))
        return numbers
