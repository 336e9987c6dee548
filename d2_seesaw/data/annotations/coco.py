"""Annotation files in COCO or LVIS format: strict JSON, decoded by msgspec into a table.

Annotations are decoded one by one, so that their polygons are never all Python numbers at once.
"""

import json
import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from struct import pack
from typing import Any

import msgspec
import numpy as np

from d2_seesaw.data.annotations.schema import (
    SECTIONS,
    Annotation,
    Category,
    Image,
    Problem,
    category_problems,
    checked_annotation,
    id_problem,
    image_problems,
    unknown_id,
)
from d2_seesaw.data.annotations.table import ARRAYS, AnnotationTable
from d2_seesaw.data.rle import compressed_rle
from d2_seesaw.utils.progress import track

_NULL = msgspec.Raw(b"null")


class _File(msgspec.Struct):
    images: msgspec.Raw = _NULL
    annotations: msgspec.Raw = _NULL
    categories: msgspec.Raw = _NULL


_DECODER = msgspec.json.Decoder(_File)
_ANNOTATION = msgspec.json.Decoder(Annotation)
_NOT_DECODED = (msgspec.MsgspecError, ValueError)


@dataclass(frozen=True)
class ParsedFile:
    """The content of an annotation file.

    Attributes:
        table: All annotations that can be represented.
        problems: The rules that the file breaks.
        numbers: Number of entries in each of ``SECTIONS``.
    """

    table: AnnotationTable
    problems: list[Problem]
    numbers: dict[str, int]


def parse_file(json_file: str | Path, *, keep_all: bool = False) -> ParsedFile:
    """Parse a file in COCO or LVIS format. Sections that are missing are problems, not errors.

    Args:
        json_file: the file.
        keep_all: whether the table also has annotations without a box, of unknown images and of
            unknown categories. The index of what is unknown is -1.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not valid JSON, or does not hold an object.
    """
    return parse_text(Path(json_file).read_bytes(), str(json_file), keep_all=keep_all)


def parse_text(text: bytes, name: str, *, keep_all: bool = False) -> ParsedFile:
    """Parse the text of a file called ``name``, see :func:`parse_file`."""
    try:
        file = _DECODER.decode(text)
        types = (Image, msgspec.Raw, Category)
        lists = [_decoded(getattr(file, s), t) for s, t in zip(SECTIONS, types, strict=True)]
        return _parse(name, lists, keep_all)
    except _NOT_DECODED as error:
        content, reason = _content_of(text, name), error
    found = _parse(name, [content.get(section) for section in SECTIONS], keep_all)
    if not any(problem.kind == "not_finite" for problem in found.problems):
        message = f"the file is not strict JSON, which has no NaN or Infinity: {reason}"
        found.problems.append(Problem("not_finite", message))
    return found


def _decoded(section: msgspec.Raw, entry_type: Any) -> Any:
    """Decode the entries of a section, into plain objects if some have unexpected types."""
    try:
        return msgspec.json.decode(section, type=list[entry_type])
    except _NOT_DECODED:
        return json.loads(bytes(section))


def _content_of(text: bytes, name: str) -> dict[str, Any]:
    """Read what msgspec refuses with Python's ``json``, which says where an error is."""
    try:
        content = json.loads(text.decode())
    except ValueError as error:
        raise ValueError(f"{name} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{name} must hold an object with images, annotations and categories, "
            f"got a {type(content).__name__}"
        )
    return content


def _parse(name: str, lists: Sequence[Any], keep_all: bool) -> ParsedFile:
    problems = [
        Problem("missing_field", f"the file has no list of {section!r}")
        for section, entries in zip(SECTIONS, lists, strict=True)
        if not isinstance(entries, list)
    ]
    images, annotations, categories = (e if isinstance(e, list) else [] for e in lists)
    if lists[2] == []:
        problems.append(Problem("missing_field", "the file lists no categories"))
    numbers = {"images": len(images), "annotations": len(annotations)}
    numbers["categories"] = len(categories)
    images = _entries("images", Image, image_problems, images, problems)
    categories = _entries("categories", Category, category_problems, categories, problems)
    _name_categories(categories, problems)
    builder = _TableBuilder(images, categories, problems)
    entries = track(annotations, f"reading {os.path.basename(name)}", unit="annotation")
    for position, entry in enumerate(entries):
        builder.add(entry, f"annotations[{position}]", keep_all)
    return ParsedFile(builder.table(), problems, numbers)


def _entries(
    section: str, entry_type: Any, rules: Any, entries: Sequence[Any], problems: list[Problem]
) -> list[dict[str, Any]]:
    """Return all entries that have an id of their own, by id, without unusable values."""
    kept: dict[Any, dict[str, Any]] = {}
    key = {"images": "image_id", "categories": "category_id"}[section]
    for position, entry in enumerate(entries):
        place = f"{section}[{position}]"
        if not isinstance(entry, dict):
            problems.append(Problem("missing_field", f"{place} is {entry!r}, not an object"))
        elif problem := id_problem(entry.get("id"), place):
            problems.append(Problem(*problem, "id"))
        elif (name := entry["id"]) in kept:
            message = f"two {section} have the id {name!r}"
            problems.append(Problem("duplicate_id", message, **{key: name}))
        else:
            fields = entry_type.__annotations__
            kept[name] = {k: entry[k] for k in fields if entry.get(k) is not None}
            for kind, field, message in rules(entry, place):
                problems.append(Problem(kind, message, field, **{key: name}))
                kept[name].pop(field, None)
    return sorted(kept.values(), key=lambda e: (isinstance(e["id"], str), e["id"]))


def _name_categories(categories: list[dict[str, Any]], problems: list[Problem]) -> None:
    names: dict[str, Any] = {}
    for category in categories:
        category["name"] = name = str(category.get("name", category["id"]))
        if names.setdefault(name, category["id"]) != category["id"]:
            message = f"category {names[name]!r} is called {name!r}, too"
            problems.append(Problem("duplicate_name", message, category_id=category["id"]))


class _TableBuilder:
    """Columns that grow with each annotation."""

    def __init__(
        self,
        images: list[dict[str, Any]],
        categories: list[dict[str, Any]],
        problems: list[Problem],
    ) -> None:
        self.images, self.categories, self.problems = images, categories, problems
        self.image_index = {image["id"]: i for i, image in enumerate(images)}
        self.category_index = {category["id"]: i for i, category in enumerate(categories)}
        self.ids: list[Any] = []
        self.image, self.category = array("i"), array("i")
        self.crowd, self.ignored = array("b"), array("b")
        self.box, self.area, self.coordinates = array("d"), array("d"), bytearray()
        self.polygon_offsets, self.coordinate_offsets = array("q", [0]), array("q", [0])
        self.rle_offsets, self.rle_size, self.rle = array("q", [0]), array("i"), bytearray()

    def add(self, entry: Any, place: str, keep_all: bool) -> None:
        annotation, found = self._read(entry, place)
        if annotation is None:
            return
        image = self.image_index.get(annotation.image_id, -1)
        category = self.category_index.get(annotation.category_id, -1)
        if image < 0 and annotation.image_id is not None:
            found = [*found, unknown_id(annotation.image_id, "image")]
        if category < 0 and annotation.category_id is not None:
            found = [*found, unknown_id(annotation.category_id, "category")]
        if found:
            known = (annotation.image_id, annotation.id, None, len(self.ids))
            self.problems += [Problem(kind, text, field, *known) for kind, field, text in found]
        if keep_all or (image >= 0 and category >= 0 and annotation.bbox is not None):
            self._append(annotation, image, category)

    def _read(
        self, entry: Any, place: str
    ) -> tuple[Annotation | None, Sequence[tuple[str, str | None, str]]]:
        """Return the annotation, and kind, field and message of what is wrong with it."""
        is_raw = isinstance(entry, msgspec.Raw)
        try:
            annotation = _ANNOTATION.decode(entry) if is_raw else msgspec.convert(entry, Annotation)
            if isinstance(annotation.segmentation, dict):
                annotation.segmentation = compressed_rle(annotation.segmentation)
            required = (annotation.id, annotation.image_id, annotation.category_id, annotation.bbox)
            if None not in required:
                return annotation, ()
        except (*_NOT_DECODED, KeyError, TypeError):
            pass  # the entry breaks a rule; find out which one
        entry = json.loads(bytes(entry)) if is_raw else entry
        if not isinstance(entry, dict):
            message = f"{place} is {entry!r}, not an object"
            self.problems.append(Problem("missing_field", message))
            return None, ()
        annotation, found = checked_annotation(entry, place)
        if isinstance(annotation.segmentation, dict) and annotation.segmentation:
            annotation.segmentation = compressed_rle(annotation.segmentation)
        return annotation, found

    def _append(self, annotation: Annotation, image: int, category: int) -> None:
        self.ids.append(annotation.id)
        self.image.append(image)
        self.category.append(category)
        self.crowd.append(bool(annotation.iscrowd))
        self.ignored.append(bool(annotation.ignore))
        self.box.extend(annotation.bbox or [np.nan] * 4)
        self.area.append(np.nan if annotation.area is None else annotation.area)
        segmentation = annotation.segmentation or ()
        if isinstance(segmentation, dict):
            self.rle += segmentation["counts"].encode("ascii")
            self.rle_size.extend(segmentation["size"])
        else:
            self.rle_size.extend((0, 0))
            for polygon in segmentation:
                self.coordinates += pack(f"{len(polygon)}d", *polygon)  # the fastest way
                self.coordinate_offsets.append(len(self.coordinates) // 8)
        self.polygon_offsets.append(len(self.coordinate_offsets) - 1)
        self.rle_offsets.append(len(self.rle))

    def _check_ids(self) -> None:
        if len(set(self.ids)) == len(self.ids):
            return
        seen = set()
        for row, name in enumerate(self.ids):
            if name is not None and name in seen:
                image = self.images[self.image[row]]["id"] if self.image[row] >= 0 else None
                message = f"two annotations have the id {name!r}"
                self.problems.append(Problem("duplicate_id", message, None, image, name, None, row))
            seen.add(name)

    def table(self) -> AnnotationTable:
        self._check_ids()
        ids = np.array(self.ids) if self.ids else np.zeros(0, np.int64)
        self.annotation_id = ids.astype(str) if ids.dtype == object else ids
        arrays = {name: np.asarray(getattr(self, name)) for name in ARRAYS}
        arrays |= {name: arrays[name].view(bool) for name in ("crowd", "ignored")}
        arrays["box"] = arrays["box"].reshape(-1, 4)
        arrays["rle_size"] = arrays["rle_size"].reshape(-1, 2)
        arrays["coordinates"] = arrays["coordinates"].view(np.float64)
        return AnnotationTable(self.images, self.categories, **arrays)
