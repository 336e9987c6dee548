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
    Found,
    Image,
    Problem,
    as_id,
    category_problems,
    checked_annotation,
    id_problem,
    image_problems,
    shown,
    unknown_id,
    whole_numbers,
)
from d2_seesaw.data.annotations.table import AnnotationTable
from d2_seesaw.data.annotations.validation import validate
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
_MOST_DIGITS = 4000  # of whole numbers: Python reads no more
_COMPRESSED = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}


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
    """Parse a file in COCO or LVIS format and find all rules that it breaks.

    Whatever loading or evaluation refuses is a problem here, but for what is no JSON object.

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
    problems: list[Problem] = []
    try:
        return _parse_text(_as_utf_8(text, name, problems), name, keep_all, problems)
    except RecursionError as error:
        raise ValueError(f"{name} is nested too deeply to hold annotations") from error


def _parse_text(text: bytes, name: str, keep_all: bool, problems: list[Problem]) -> ParsedFile:
    try:
        file = _DECODER.decode(text)
        types = (Image, msgspec.Raw, Category)
        lists = [_decoded(getattr(file, s), t) for s, t in zip(SECTIONS, types, strict=True)]
        return _parse(name, lists, keep_all, problems)
    except _NOT_DECODED as error:
        reason, constants = error, []
        content = _content_of(text, name, constants)
    problems = [problem for problem in problems if problem.kind == "text_encoding"]
    found = _parse(name, [content.get(section) for section in SECTIONS], keep_all, problems)
    if constants and not any(problem.kind == "not_finite" for problem in found.problems):
        message = f"the file is not strict JSON, which has no NaN or Infinity: {reason}"
        found.problems.append(Problem("not_finite", message))
    return found


def _as_utf_8(text: bytes, name: str, problems: list[Problem]) -> bytes:
    """Return text of any Unicode encoding as UTF-8 without a byte order mark."""
    if not text:
        raise ValueError(f"{name} is not valid JSON: the file is empty")
    for start, program in _COMPRESSED.items():
        if text.startswith(start):
            raise ValueError(f"{name} is not valid JSON: unpack the file, it is a {program} file")
    encoding = json.detect_encoding(text)
    if encoding == "utf-8":
        return text
    try:
        text = text.decode(encoding).encode()
    except UnicodeError as error:
        raise ValueError(f"{name} is not valid JSON: {error}") from error
    called = {"utf-8-sig": "UTF-8 with a byte order mark"}.get(encoding, encoding.upper())
    problems.append(Problem("text_encoding", f"the file is {called}, not plain UTF-8"))
    return text


def _decoded(section: msgspec.Raw, entry_type: Any) -> Any:
    """Decode the entries of a section, into plain objects if some have unexpected types."""
    try:
        return msgspec.json.decode(section, type=list[entry_type])
    except _NOT_DECODED:
        return _loads(bytes(section))


def _loads(text: bytes, **hooks: Any) -> Any:
    return json.loads(text.decode(), parse_int=_whole_number, **hooks)


def _whole_number(digits: str) -> int | float:
    return int(digits) if len(digits) < _MOST_DIGITS else float(digits)


def read_content(text: bytes, name: str) -> dict[str, Any]:
    """Return the object in the text of a file called ``name``, without checking its entries.

    Raises:
        ValueError: it is not valid JSON, or does not hold an object.
    """
    try:
        return _content_of(_as_utf_8(text, name, []), name, [])
    except RecursionError as error:
        raise ValueError(f"{name} is nested too deeply to hold annotations") from error


def _content_of(text: bytes, name: str, constants: list[str]) -> dict[str, Any]:
    """Read what msgspec refuses with Python's ``json``, which says where an error is.

    Each NaN and Infinity is added to ``constants``.
    """

    def constant(name: str) -> float:
        constants.append(name)
        return float(name)

    try:
        content = _loads(text, parse_constant=constant)
    except ValueError as error:
        raise ValueError(f"{name} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{name} must hold an object with images, annotations and categories, "
            f"got a {type(content).__name__}"
        )
    return content


def _parse(name: str, lists: Sequence[Any], keep_all: bool, problems: list[Problem]) -> ParsedFile:
    problems += [
        Problem("missing_section", f"the file has no list of {section!r}")
        for section, entries in zip(SECTIONS, lists, strict=True)
        if not isinstance(entries, list)
    ]
    images, annotations, categories = (e if isinstance(e, list) else [] for e in lists)
    if lists[2] == []:
        problems.append(Problem("missing_section", "the file lists no categories"))
    numbers = {"images": len(images), "annotations": len(annotations)}
    numbers["categories"] = len(categories)
    images = _entries("images", Image, image_problems, images, problems)
    categories = _entries("categories", Category, category_problems, categories, problems)
    _check_frequencies(categories, problems)
    builder = _TableBuilder(images, categories, problems)
    entries = track(annotations, f"reading {os.path.basename(name)}", unit="annotation")
    for position, entry in enumerate(entries):
        builder.add(entry, position, keep_all)
    return ParsedFile(validate(builder.table(), problems), problems, numbers)


def _entries(
    section: str, entry_type: Any, rules: Any, entries: Sequence[Any], problems: list[Problem]
) -> list[dict[str, Any]]:
    """Return all entries that have an id of their own, by id, without unusable values."""
    kept: dict[Any, dict[str, Any]] = {}
    key = {"images": "image_id", "categories": "category_id"}[section]
    fields = tuple(entry_type.__annotations__)
    for position, entry in enumerate(entries):
        place = f"{section}[{position}]"
        if not isinstance(entry, dict):
            problems.append(Problem("invalid_type", f"{place} is {shown(entry)}, not an object"))
            continue
        if problem := id_problem(entry.get("id"), place):
            problems.append(Problem(*problem, "id"))
            continue
        name: Any = as_id(entry["id"])
        if name in kept:
            message = f"two {section} have the id {name!r}"
            problems.append(Problem("duplicate_id", message, **{key: name}))
            continue
        kept[name] = values = {k: entry[k] for k in fields if entry.get(k) is not None}
        values["id"] = name
        whole_numbers(values)
        for kind, field, message in list(rules(values)):
            problems.append(Problem(kind, message, field, **{key: name}))
            values.pop(field, None)
    return sorted(kept.values(), key=lambda e: (isinstance(e["id"], str), e["id"]))


def _check_frequencies(categories: list[dict[str, Any]], problems: list[Problem]) -> None:
    lacking = [category for category in categories if "frequency" not in category]
    if any(problem.kind == "invalid_frequency" for problem in problems):
        return
    if lacking and len(lacking) < len(categories):
        number = f"{len(lacking)} of {len(categories)} categories have no 'frequency'"
        first = lacking[0]["id"]
        problems.append(Problem("invalid_frequency", number, "frequency", category_id=first))


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
        # Rows with a crowd, an ignored object or an encoding: columns of all rows take longer.
        self.crowds, self.ignored_rows, self.rle_rows = array("q"), array("q"), array("q")
        self.box, self.area, self.coordinates = array("d"), array("d"), bytearray()
        self.polygon_offsets, self.coordinate_offsets = array("q", [0]), array("q", [0])
        self.rle_lengths, self.rle_sizes, self.rle = array("q"), array("i"), bytearray()

    def add(self, entry: Any, position: int, keep_all: bool) -> None:
        annotation, found = self._read(entry, position)
        if annotation is None:
            return
        image = self.image_index.get(annotation.image_id, -1)
        category = self.category_index.get(annotation.category_id, -1)
        if image < 0 and annotation.image_id is not None:
            rule, message = unknown_id(annotation.image_id, "image", self.image_index)
            found = [*found, (rule, "image_id", message)]
        if category < 0 and annotation.category_id is not None:
            rule, message = unknown_id(annotation.category_id, "category", self.category_index)
            found = [*found, (rule, "category_id", message)]
        is_kept = keep_all or (image >= 0 and category >= 0 and annotation.bbox is not None)
        if found:
            row = len(self.ids) if is_kept else None
            known = (annotation.image_id, annotation.id, None, row)
            self.problems += [Problem(kind, text, field, *known) for kind, field, text in found]
        if is_kept:
            self._append(annotation, image, category)

    def _read(self, entry: Any, position: int) -> tuple[Annotation | None, Sequence[Found]]:
        """Return the annotation, and rule, field and message of what is wrong with it."""
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
        place = f"annotations[{position}]"
        entry = _loads(bytes(entry)) if is_raw else entry
        if not isinstance(entry, dict):
            message = f"{place} is {shown(entry)}, not an object"
            self.problems.append(Problem("invalid_type", message))
            return None, ()
        annotation, found = checked_annotation(entry, place)
        if isinstance(annotation.segmentation, dict) and annotation.segmentation:
            annotation.segmentation = compressed_rle(annotation.segmentation)
        return annotation, found

    def _append(self, annotation: Annotation, image: int, category: int) -> None:
        if annotation.iscrowd:
            self.crowds.append(len(self.ids))
        if annotation.ignore:
            self.ignored_rows.append(len(self.ids))
        self.image.append(image)
        self.category.append(category)
        self.box.extend(annotation.bbox or [np.nan] * 4)
        self.area.append(np.nan if annotation.area is None else annotation.area)
        segmentation = annotation.segmentation or ()
        if type(segmentation) is dict:
            counts = segmentation["counts"].encode("ascii")
            self.rle += counts
            self.rle_rows.append(len(self.ids))
            self.rle_lengths.append(len(counts))
            self.rle_sizes.extend(segmentation["size"])
        else:
            for polygon in segmentation:
                self.coordinates += pack(f"{len(polygon)}d", *polygon)  # the fastest way
                self.coordinate_offsets.append(len(self.coordinates) // 8)
        self.polygon_offsets.append(len(self.coordinate_offsets) - 1)
        self.ids.append(annotation.id)

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
        plain = ("image", "category", "area", "polygon_offsets", "coordinate_offsets")
        arrays = {name: np.asarray(getattr(self, name)) for name in (*plain, "coordinates", "rle")}
        arrays["annotation_id"] = ids.astype(str) if ids.dtype == object else ids
        arrays["box"] = np.asarray(self.box).reshape(-1, 4)
        arrays["coordinates"] = arrays["coordinates"].view(np.float64)
        for name, rows in (("crowd", self.crowds), ("ignored", self.ignored_rows)):
            arrays[name] = np.zeros(len(ids), bool)
            arrays[name][np.asarray(rows, np.int64)] = True
        lengths, sizes = np.zeros(len(ids), np.int64), np.zeros((len(ids), 2), np.int32)
        encoded = np.asarray(self.rle_rows, np.int64)
        lengths[encoded], sizes[encoded] = self.rle_lengths, np.reshape(self.rle_sizes, (-1, 2))
        arrays |= {"rle_offsets": np.concatenate([[0], np.cumsum(lengths)]), "rle_size": sizes}
        return AnnotationTable(self.images, self.categories, **arrays)
