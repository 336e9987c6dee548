"""Reads a parsed annotation file in COCO or LVIS format into columns."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from d2_seesaw.data.annotations.annotation_json import is_finite
from d2_seesaw.data.annotations.table import (
    ARRAYS,
    FEDERATED,
    AnnotationColumns,
    category_name,
    collection_paused,
)
from d2_seesaw.data.rle import compressed_rle

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
        ValueError: images or categories that lack what is needed or share an id or a name, or no
            categories.
    """
    images = _entries(content, "images", ("id", "height", "width"))
    categories = [_named(category) for category in _entries(content, "categories", ("id",))]
    _check_unique("images", "id", images)
    _check_unique("categories", "id", categories)
    _check_unique("categories", "name", categories)
    if not isinstance(content.get("annotations"), list):
        raise ValueError("it has no list of 'annotations'")
    if not categories:
        raise ValueError("it lists no categories")
    for image in images:
        if problem := problem_of_name(image):
            raise ValueError(f"image {image['id']!r} {problem}")
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
        place = f"{section}[{position}]"
        if not isinstance(entry, dict):
            raise ValueError(f"{place} is {entry!r}, not an object")
        lacking = [key for key in keys if entry.get(key) is None]
        if lacking:
            raise ValueError(f"{place} has no {lacking[0]!r}")
        if not is_id(entry["id"]):
            raise ValueError(f"{place} has the id {entry['id']!r}, not a number or text")
    return entries


def is_id(value: Any) -> bool:
    """Whether a value can be an id: a number or text."""
    return isinstance(value, (int, float, str))


def _named(category: dict[str, Any]) -> dict[str, Any]:
    """The category with a name that is text."""
    name = category.get("name")
    if name is not None and not is_id(name):
        raise ValueError(f"category {category['id']!r} has the name {name!r}, not text or a number")
    return {**category, "name": category_name(category)}


def problem_of_name(image: Mapping[str, Any]) -> str | None:
    """What is wrong with the path and the URL of an image, or None."""
    given = [name for key in ("file_name", "coco_url") if (name := image.get(key))]
    if not given:
        return "has neither a 'file_name' nor a 'coco_url'"
    wrong = [name for name in given if not isinstance(name, str)]
    return f"has the name {wrong[0]!r}, not text" if wrong else None


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


def _problem_of_id(annotation: Any, ids: set[Any]) -> str | None:
    if not isinstance(annotation, dict):
        return f"is {annotation!r}, not an object"
    name = annotation.get("id")
    if name is None:
        return "has no 'id'"
    if not is_id(name):
        return f"has the id {name!r}, not a number or text"
    return f"shares the id {name!r} with another" if name in ids else None


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
        with_masks = any(isinstance(a, dict) and a.get("segmentation") for a in annotations)
        ids = set()
        for position, annotation in enumerate(annotations):
            annotations[position] = None  # its memory is needed for the columns
            problem = _problem_of_id(annotation, ids)
            if problem:
                self.complaints.append(f"annotations[{position}] {problem}")
                continue
            name = annotation["id"]
            ids.add(name)
            problem = self._problem_of_box(annotation)
            if problem is None:
                problem = self._add_segmentation(annotation, with_masks)
                if problem is None:
                    self._add(annotation)
            if problem:
                self.complaints.append(f"annotation {name!r} {problem}")

    def _problem_of_box(self, annotation: Mapping[str, Any]) -> str | None:
        image, category = annotation.get("image_id"), annotation.get("category_id")
        if not is_id(image) or image not in self.index_of_image:
            return f"is of the unknown image {image!r}"
        if not is_id(category) or category not in self.index_of_category:
            return f"is of the unknown category {category!r}"
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
        if not isinstance(segmentation, list):
            return f"has the segmentation {segmentation!r}"
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
            rle = compressed_rle(segmentation)
        except (KeyError, TypeError, ValueError) as error:
            return f"has a run-length encoding that cannot be read ({error!r})"
        self.rle_size.extend(rle["size"])
        self.rle += rle["counts"].encode("ascii")
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
