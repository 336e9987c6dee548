"""Ground truth of LVIS evaluation as arrays.

A pair is an image and a category, and its key is ``category * I + image``, of their indices.

Shapes in this module:
    I: images, in order of their id
    K: categories, in order of their id
    G: objects that count, in the order of the file
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import msgspec
import numpy as np

from d2_seesaw.data.annotations.coco import parse_text
from d2_seesaw.data.annotations.table import AnnotationTable
from d2_seesaw.data.frequency import GROUPS
from d2_seesaw.data.rle import encode_segmentation

_LONGEST_TABLE = 4  # entries of a look-up table for each number that is looked up


@dataclass(frozen=True)
class GroundTruthColumns:
    """Objects, and what is known about the categories in each image.

    Attributes:
        table: the annotations, with all that the LVIS format requires.
        image_ids: ``(I,)`` ascending.
        category_ids: ``(K,)`` ascending.
        rows: ``(G,)`` row of each object in the table.
        images: ``(G,)`` index of the image of each object.
        categories: ``(G,)`` index of its category.
        boxes: ``(G, 4)`` left, top, width, height in pixels.
        areas: ``(G,)`` pixels, as in the file.
        ignored: ``(G,)`` whether the file says to ignore it.
        image_sizes: ``(I, 2)`` height and width, 0 where the file does not say.
        exhaustive: ``(I,)`` whether every category was looked for in the image.
        verified_pairs: keys of the pairs, in other images, known to be present or absent.
        open_pairs: keys of the pairs of which more objects may be there than are annotated.
        groups: indices of the categories of each frequency group.
    """

    table: AnnotationTable
    image_ids: np.ndarray
    category_ids: np.ndarray
    rows: np.ndarray
    images: np.ndarray
    categories: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    ignored: np.ndarray
    image_sizes: np.ndarray
    exhaustive: np.ndarray
    verified_pairs: np.ndarray
    open_pairs: np.ndarray
    groups: dict[str, np.ndarray]

    @classmethod
    def from_table(cls, table: AnnotationTable) -> GroundTruthColumns:
        """Return the ground truth of annotations in LVIS format.

        As in ``lvis``, objects without area do not count, not even as a sign that their category is
        in the image.
        """
        rows = np.flatnonzero(table.area > 0)
        images, categories = table.image[rows].astype(int), table.category[rows].astype(int)
        category_ids = np.array([category["id"] for category in table.categories])
        negatives = [image.get("neg_category_ids", ()) for image in table.images]
        loose = [image.get("not_exhaustive_category_ids", ()) for image in table.images]
        exhaustive = _hold_all(negatives, set(category_ids.tolist()))
        negative_pairs = _pairs(
            [() if e else n for e, n in zip(exhaustive, negatives, strict=True)], category_ids
        )
        sizes = [(image.get("height", 0), image.get("width", 0)) for image in table.images]
        return cls(
            table=table,
            image_ids=np.array([image["id"] for image in table.images]),
            category_ids=category_ids,
            rows=rows,
            images=images,
            categories=categories,
            boxes=table.box[rows],
            areas=table.area[rows],
            ignored=table.ignored[rows],
            image_sizes=np.array(sizes, int).reshape(-1, 2),
            exhaustive=exhaustive,
            verified_pairs=np.unique(
                np.concatenate([categories * len(table.images) + images, negative_pairs])
            ),
            open_pairs=_pairs(loose, category_ids),
            groups=_groups(table.categories),
        )

    @classmethod
    def from_dataset(cls, dataset: dict[str, Any]) -> GroundTruthColumns:
        """Return the ground truth of the content of a file in LVIS format."""
        return cls.from_table(parse_text(msgspec.json.encode(dataset), "the dataset").table)

    def of_task(self, task: str) -> GroundTruthColumns:
        """Return the ground truth of "bbox" or "segm"."""
        return self._of_masks if task == "segm" else self

    @cached_property
    def _of_masks(self) -> GroundTruthColumns:
        """The ground truth in which each object has a mask.

        An object without a mask is known to be in the image, but not where. It does not count, and
        detections of its category in that image that match nothing are not wrong.
        """
        table = self.table
        without = ~table.has_segmentation & (table.area > 0)
        if not without.any():
            return self
        images = list(table.images)
        for row in np.flatnonzero(without).tolist():
            image, category = table.image[row], table.categories[table.category[row]]["id"]
            loose = images[image].get("not_exhaustive_category_ids", ())
            if category not in loose:
                images[image] = {
                    **images[image],
                    "not_exhaustive_category_ids": [*loose, category],
                }
        return GroundTruthColumns.from_table(
            replace(table, images=images, area=np.where(without, 0.0, table.area))
        )

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that identify what detections are scored against.

        They depend on images, categories, objects with their boxes and areas, and on what is known
        to be absent or incomplete. They do not depend on the order of the file, on masks, ids of
        annotations, names and frequency groups.
        """
        objects = np.column_stack([self.boxes, self.areas, self.ignored]) + 0.0  # no -0.0
        order = np.lexsort((*objects.T, self.categories, self.images))
        parts = [
            *(self.images[order], self.categories[order], objects[order]),
            *(self.exhaustive, self.verified_pairs, np.unique(self.open_pairs)),
        ]
        digest = hashlib.sha256(
            json.dumps([self.image_ids.tolist(), self.category_ids.tolist()]).encode()
        )
        for part in parts:
            number_type = "<f8" if part.dtype.kind == "f" else "<i8"
            digest.update(np.ascontiguousarray(part, dtype=number_type).tobytes())
        return digest.hexdigest()[:16]

    def rle(self, row: int) -> dict[str, Any]:
        """Return the mask of an object as a compressed run-length encoding."""
        size = self.image_sizes[self.images[row]].tolist()
        return encode_segmentation(self.table.segmentation(int(self.rows[row])), size)


def index_of(values: np.ndarray, ascending: np.ndarray) -> np.ndarray:
    """Return the index of each value in ``ascending``, -1 where it is not there."""
    comparable = (values.dtype.kind in "US") == (ascending.dtype.kind in "US")
    if not len(ascending) or not len(values) or not comparable:
        return np.full(len(values), -1)
    if values.dtype.kind == ascending.dtype.kind == "i":
        first, span = int(ascending[0]), int(ascending[-1]) - int(ascending[0]) + 1
        if span <= _LONGEST_TABLE * (len(values) + len(ascending)):
            return _index_in_table(values, ascending, first, span)
    places = np.searchsorted(ascending, values).clip(max=len(ascending) - 1)
    return np.where(ascending[places] == values, places, -1)


def _index_in_table(values: np.ndarray, ascending: np.ndarray, first: int, span: int) -> np.ndarray:
    """Do the work of ``index_of`` for integers with a table, several times as fast."""
    table = np.full(span + 1, -1)
    table[ascending - first] = np.arange(len(ascending))
    # Unsigned, smaller values are larger than the span; a difference that overflows is, too.
    offsets = (values.astype(np.int64, copy=False) - first).view(np.uint64)
    return table[np.minimum(offsets, np.uint64(span)).view(np.int64)]


def _pairs(ids_per_image: Sequence[Collection[int]], category_ids: np.ndarray) -> np.ndarray:
    """Return keys of the pairs of each image with the categories in its list."""
    images = np.repeat(np.arange(len(ids_per_image)), [len(ids) for ids in ids_per_image])
    categories = index_of(
        np.array(list(itertools.chain.from_iterable(ids_per_image))), category_ids
    )
    known = categories >= 0
    return categories[known] * len(ids_per_image) + images[known]


def _hold_all(lists: Sequence[Collection[int]], ids: set[int]) -> np.ndarray:
    """Return whether each list has all ``ids``. Such images need no pairs, which could be many."""
    known: dict[int, bool] = {}  # images may share a list, so each is looked at once
    for some in lists:
        if id(some) not in known:
            known[id(some)] = len(some) >= len(ids) and ids <= set(some)
    return np.array([known[id(some)] for some in lists], dtype=bool)


def _groups(categories: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    groups = np.array([str(category.get("frequency")) for category in categories])
    return {group: np.flatnonzero(groups == group) for group in GROUPS}
