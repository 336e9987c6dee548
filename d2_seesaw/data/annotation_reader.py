"""Reads a parsed annotation file in COCO or LVIS format into columns."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from d2_seesaw.data.annotation_columns import (
    ARRAYS,
    FEDERATED,
    AnnotationColumns,
    category_name,
    collection_paused,
)
from d2_seesaw.data.annotation_json import is_finite

_OF_IMAGE = ("id", "height", "width", "file_name", "coco_url", *FEDERATED)
_OF_CATEGORY = ("id", "name", "image_count")


def columns_from_json(content: dict[str, Any]) -> tuple[AnnotationColumns, list[str]]:
    """Make columns of a parsed annotation file, whose ``annotations`` are used up.

    An annotation whose polygons all have fewer than three points, or that has no segmentation
    while others have one, is left out: a mask head could not be trained on it.

    Args:
        content: COCO or LVIS format; polygons may be arrays of finite float64.

    Returns:
        The columns, and what is wrong with annotations that are not in them for other reasons.

    Raises:
        ValueError: images or categories that lack what is needed or share an id or a name.
    """
    images = _entries(content, "images", ("id", "height", "width"))
    categories = _entries(content, "categories", ("id",))
    categories = [{**c, "name": category_name(c)} for c in categories]
    _check_unique("images", "id", images)
    _check_unique("categories", "id", categories)
    _check_unique("categories", "name", categories)
    if not isinstance(content.get("annotations"), list):
        raise ValueError("it has no list of 'annotations'")
    nameless = [i["id"] for i in images if not (i.get("file_name") or i.get("coco_url"))]
    if nameless:
        raise ValueError(f"image {nameless[0]!r} has neither a 'file_name' nor a 'coco_url'")
    images = [_kept(i, _OF_IMAGE) for i in _by_id(images)]
    categories = [_kept(c, _OF_CATEGORY) for c in _by_id(categories)]
    reader = _AnnotationReader(images, categories)
    with collection_paused():
        reader.read(content["annotations"])
    return reader.columns(), reader.complaints


def _entries(content: Mapping[str, Any], section: str, keys: Sequence[str]) -> list[dict[str, Any]]:
    entries = content.get(section)
    if not isinstance(entries, list):
        raise ValueError(f"it has no list of {section!r}")
    for position, entry in enumerate(entries):
        lacking = [key for key in keys if key not in entry]
        if lacking:
            raise ValueError(f"{section}[{position}] has no {lacking[0]!r}")
    return entries


def _check_unique(section: str, key: str, entries: Sequence[Mapping[str, Any]]) -> None:
    seen = set()
    for entry in entries:
        if entry[key] in seen:
            raise ValueError(f"{section} share the {key} {entry[key]!r}")
        seen.add(entry[key])


def _by_id(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    # Ids of several types have no order.
    return sorted(entries, key=_order_of_id)


def _order_of_id(entry: Mapping[str, Any]) -> tuple[str, Any]:
    number = isinstance(entry["id"], (int, float))
    return ("", entry["id"]) if number else (type(entry["id"]).__name__, entry["id"])


def _kept(entry: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: entry[key] for key in keys if key in entry}


@dataclass
class _AnnotationReader:
    """Reads annotations one by one into growing columns."""

    images: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    complaints: list[str] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.index_of_image = {image["id"]: i for i, image in enumerate(self.images)}
        self.index_of_category = {c["id"]: i for i, c in enumerate(self.categories)}
        self.image, self.category, self.crowd = array("i"), array("i"), array("b")
        self.box, self.coordinates = array("d"), array("d")
        self.polygons_end, self.polygon_end = array("q"), array("q")
        self.rle, self.rle_end, self.rle_size = bytearray(), array("q"), array("i")

    def read(self, annotations: list[Any]) -> None:
        with_masks = any(a.get("segmentation") for a in annotations)
        ids = set()
        for position, annotation in enumerate(annotations):
            annotations[position] = None  # its memory is needed for the columns
            name = annotation.get("id")
            if name is None or name in ids:
                self.complaints.append(
                    f"annotations[{position}] has no 'id'"
                    if name is None
                    else f"annotations share the id {name!r}"
                )
                continue
            ids.add(name)
            problem = self._problem_of_box(annotation)
            if problem is None:
                problem = self._add_segmentation(annotation, with_masks)
                if problem is None:
                    self._add(annotation)
            if problem:
                self.complaints.append(f"annotation {name!r} {problem}")

    def _problem_of_box(self, annotation: Mapping[str, Any]) -> str | None:
        if annotation.get("image_id") not in self.index_of_image:
            return f"is of the unknown image {annotation.get('image_id')!r}"
        if annotation.get("category_id") not in self.index_of_category:
            return f"is of the unknown category {annotation.get('category_id')!r}"
        box = annotation.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not is_finite(box):
            return f"has the bbox {box!r}, not four finite numbers"
        return None

    def _add_segmentation(self, annotation: Mapping[str, Any], with_masks: bool) -> str | None:
        """What is wrong with the segmentation, "" for leaving it out without a word, or None."""
        segmentation = annotation.get("segmentation")
        if not segmentation:
            return self._leave_out("without a segmentation") if with_masks else None
        if isinstance(segmentation, dict):
            return self._add_rle(segmentation)
        if not all(isinstance(p, array) or _is_polygon(p) for p in segmentation):
            return "has a polygon that is no list of finite numbers"
        polygons = [p for p in segmentation if len(p) % 2 == 0 and len(p) >= 6]
        if not polygons:
            return self._leave_out("whose polygons have fewer than three points")
        for polygon in polygons:
            self.coordinates.extend(polygon)
            self.polygon_end.append(len(self.coordinates))
        return None

    def _add_rle(self, segmentation: dict[str, Any]) -> str | None:
        try:
            size = [int(side) for side in segmentation["size"]]
            self.rle_size.extend(size)
            self.rle += compressed_rle(segmentation)["counts"].encode("ascii")
        except (KeyError, TypeError, ValueError):
            del self.rle_size[2 * len(self.image) :]
            return "has a run-length encoding without valid 'size' and 'counts'"
        return None

    def _leave_out(self, reason: str) -> str:
        self.left_out[reason] = self.left_out.get(reason, 0) + 1
        return ""

    def _add(self, annotation: Mapping[str, Any]) -> None:
        self.image.append(self.index_of_image[annotation["image_id"]])
        self.category.append(self.index_of_category[annotation["category_id"]])
        self.crowd.append(1 if annotation.get("iscrowd") else 0)
        self.box.extend(annotation["bbox"])
        self.polygons_end.append(len(self.polygon_end))
        self.rle_end.append(len(self.rle))
        if len(self.rle_size) < 2 * len(self.image):
            self.rle_size.extend((0, 0))

    def columns(self) -> AnnotationColumns:
        arrays = {name: np.asarray(getattr(self, name)) for name in ARRAYS if name != "rle"}
        arrays["box"] = arrays["box"].reshape(-1, 4)
        arrays["rle_size"] = arrays["rle_size"].reshape(-1, 2)
        arrays["rle"] = np.frombuffer(bytes(self.rle), np.uint8)
        return AnnotationColumns(self.images, self.categories, self.left_out, **arrays)


def _is_polygon(polygon: Any) -> bool:
    return isinstance(polygon, list) and is_finite(polygon)


def compressed_rle(segmentation: Mapping[str, Any]) -> dict[str, Any]:
    """A run-length encoding with its ``counts`` as compressed text, whichever it had.

    Raises:
        KeyError, TypeError, ValueError: it has no valid ``size`` and ``counts``.
    """
    height, width = segmentation["size"]
    counts = segmentation["counts"]
    if isinstance(counts, list):
        if sum(counts) != height * width or min(counts, default=0) < 0:
            raise ValueError(f"counts must add up to {height} x {width}, got {sum(counts)}")
        uncompressed: Any = dict(segmentation)
        encoded: Any = mask_utils.frPyObjects(uncompressed, height, width)
        counts = encoded["counts"]
    return {
        "size": [height, width],
        "counts": counts if isinstance(counts, str) else counts.decode(),
    }
