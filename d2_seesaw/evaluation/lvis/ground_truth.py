"""An annotation file in the LVIS format as arrays.

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
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from d2_seesaw.data.frequency import GROUPS
from d2_seesaw.data.rle import encode_segmentation


@dataclass(frozen=True)
class GroundTruthColumns:
    """What is known about the images.

    Attributes:
        image_ids: ``(I,)`` ascending.
        category_ids: ``(K,)`` ascending.
        images: ``(G,)`` index of the image of each object.
        categories: ``(G,)`` index of its category.
        boxes: ``(G, 4)`` left, top, width, height in pixels.
        areas: ``(G,)`` pixels, by the file.
        ignored: ``(G,)`` whether the file says to ignore it.
        segmentations: G entries as the file has them, None where it has none.
        image_sizes: ``(I, 2)`` height and width, 0 where the file does not say.
        exhaustive: ``(I,)`` whether every category was looked for in the image.
        verified_pairs: keys of the pairs, in other images, known to be present or absent.
        open_pairs: keys of the pairs of which more objects may be there than are annotated.
        groups: indices of the categories of each frequency group.
    """

    image_ids: np.ndarray
    category_ids: np.ndarray
    images: np.ndarray
    categories: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    ignored: np.ndarray
    segmentations: list[Any]
    image_sizes: np.ndarray
    exhaustive: np.ndarray
    verified_pairs: np.ndarray
    open_pairs: np.ndarray
    groups: dict[str, np.ndarray]

    @classmethod
    def from_dataset(cls, dataset: dict[str, Any]) -> GroundTruthColumns:
        """From a parsed annotation file.

        Objects without area, or of an image or a category that is not listed, do not count: not
        even as a sign that their category is in the image. So ``lvis`` has it.
        """
        by_id = {image["id"]: image for image in dataset["images"]}
        image_ids = np.array(sorted(by_id))
        category_ids = np.array(sorted({c["id"] for c in dataset["categories"]}))
        records = [by_id[i] for i in image_ids.tolist()]
        objects = dataset["annotations"]
        images = index_of(np.array([o["image_id"] for o in objects]), image_ids)
        categories = index_of(np.array([o["category_id"] for o in objects]), category_ids)
        areas = np.array([o["area"] for o in objects], dtype=float)
        counts = (images >= 0) & (categories >= 0) & (areas > 0) & (areas < np.inf)
        objects = [objects[i] for i in np.flatnonzero(counts)]
        images, categories, areas = images[counts], categories[counts], areas[counts]
        negatives = [image["neg_category_ids"] for image in records]
        exhaustive = _hold_all(negatives, set(category_ids.tolist()))
        negative_pairs = _pairs(
            [[] if e else n for e, n in zip(exhaustive, negatives, strict=True)], category_ids
        )
        return cls(
            image_ids=image_ids,
            category_ids=category_ids,
            images=images,
            categories=categories,
            boxes=np.array([o["bbox"] for o in objects], dtype=float).reshape(-1, 4),
            areas=areas,
            ignored=np.array([bool(o.get("ignore")) for o in objects], dtype=bool),
            segmentations=[o.get("segmentation") for o in objects],
            image_sizes=np.array([(i.get("height", 0), i.get("width", 0)) for i in records], int),
            exhaustive=exhaustive,
            verified_pairs=np.unique(
                np.concatenate([categories * len(image_ids) + images, negative_pairs])
            ),
            open_pairs=_pairs([i["not_exhaustive_category_ids"] for i in records], category_ids),
            groups=_groups(dataset["categories"], category_ids),
        )

    def fingerprint(self) -> str:
        """16 hexadecimal digits that name what detections are scored against, by its content.

        That is images, categories, objects with their boxes and areas, and what is known to be
        absent or incomplete. The order of the file and its other fields, ids of annotations, names
        and frequency groups among them, are no part of it, and nor are masks.
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
        """Return the mask of an object as pycocotools takes it."""
        size = self.image_sizes[self.images[row]].tolist()
        return encode_segmentation(self.segmentations[row], size)


def index_of(values: np.ndarray, ascending: np.ndarray) -> np.ndarray:
    """Index of each value in ``ascending``, -1 where it is not there."""
    comparable = (values.dtype.kind in "US") == (ascending.dtype.kind in "US")
    if not len(ascending) or not len(values) or not comparable:
        return np.full(len(values), -1)
    places = np.searchsorted(ascending, values).clip(max=len(ascending) - 1)
    return np.where(ascending[places] == values, places, -1)


def _pairs(of_images: list[Iterable[int]], category_ids: np.ndarray) -> np.ndarray:
    """Keys of the pairs of each image with the categories in its list."""
    images = np.repeat(np.arange(len(of_images)), [len(list(ids)) for ids in of_images])
    categories = index_of(np.array(list(itertools.chain.from_iterable(of_images))), category_ids)
    known = categories >= 0
    return categories[known] * len(of_images) + images[known]


def _hold_all(lists: list[list[int]], ids: set[int]) -> np.ndarray:
    """Whether each list has all ``ids``: that needs no pairs, which could be very many."""
    known: dict[int, bool] = {}  # images may share a list, so each is looked at once
    for some in lists:
        if id(some) not in known:
            known[id(some)] = len(some) >= len(ids) and ids <= set(some)
    return np.array([known[id(some)] for some in lists], dtype=bool)


def _groups(categories: list[dict[str, Any]], category_ids: np.ndarray) -> dict[str, np.ndarray]:
    group_of = {category["id"]: category.get("frequency") for category in categories}
    groups = np.array([str(group_of[i]) for i in category_ids.tolist()])
    return {group: np.flatnonzero(groups == group) for group in GROUPS}
