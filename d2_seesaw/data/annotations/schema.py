"""The structure of annotation files in COCO or LVIS format, and the rules for single entries."""

import reprlib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple, TypedDict

from msgspec import Meta, Struct

from d2_seesaw.data.annotations.rules import ERROR, RULES
from d2_seesaw.data.frequency import GROUPS, UNKNOWN_FREQUENCY
from d2_seesaw.data.rle import compressed_rle

SECTIONS = ("images", "annotations", "categories")
FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")

_LARGE = 1e300  # no coordinate of an image is larger
_LARGEST_ID = 2**63 - 1
_MOST_PIXELS = 2**31
_LONGEST_SIDE = 2**15  # of an image whose number of pixels need not be computed
LARGEST_AREA = 1e10
"""The largest area that LVIS and COCO evaluation count, in pixels."""

Id = Annotated[int, Meta(ge=-_LARGEST_ID, le=_LARGEST_ID)] | str
Coordinate = Annotated[float, Meta(gt=-_LARGE, lt=_LARGE)]
Flag = Annotated[int, Meta(ge=0, le=1)] | bool

Found = tuple[str, str, str]
"""Rule, field and message of a value."""


class Image(TypedDict, total=False):
    """The fields of an image that are read."""

    id: Id
    height: int | None
    width: int | None
    file_name: str | None
    coco_url: str | None
    neg_category_ids: list[Id] | None
    not_exhaustive_category_ids: list[Id] | None


class Category(TypedDict, total=False):
    """The fields of a category that are read."""

    id: Id
    name: int | float | str | None
    image_count: int | None
    frequency: str | None


class Annotation(Struct, gc=False):
    """The fields of an annotation that are read. None stands for a missing value."""

    id: Id | None = None
    image_id: Id | None = None
    category_id: Id | None = None
    bbox: Annotated[list[Coordinate], Meta(min_length=4, max_length=4)] | None = None
    segmentation: list[list[Coordinate]] | dict[str, Any] | None = None
    area: Annotated[float, Meta(ge=0, le=LARGEST_AREA)] | None = None
    iscrowd: Flag | None = None
    ignore: Flag | None = None


class Problem(NamedTuple):
    """A rule of the format that an entry breaks.

    Attributes:
        kind: The name of a rule in ``RULES``.
        message: A description that names what was found.
        field: The field with a missing or unusable value, if this is the problem.
        image_id: The image, if the problem concerns one.
        annotation_id: The annotation, if the problem concerns one.
        category_id: The category, if the problem concerns one.
        row: The row of the annotation in the table.
    """

    kind: str
    message: str
    field: str | None = None
    image_id: Any = None
    annotation_id: Any = None
    category_id: Any = None
    row: int | None = None

    @property
    def is_error(self) -> bool:
        """Whether the file is refused wherever it is read, but for ``Rule.training_only``."""
        return RULES[self.kind].severity == ERROR

    def __str__(self) -> str:
        entries = ("annotation", self.annotation_id), ("image", self.image_id)
        for what, name in (*entries, ("category", self.category_id)):
            if name is not None:
                return f"{what} {name!r}: {self.message}"
        return self.message


def as_id(value: Any) -> int | str | None:
    """Return a value as an id, a 64-bit integer or text, or None if it cannot be one."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str):
        return value if is_text(value) else None
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if abs(value) <= _LARGEST_ID else None


def is_text(value: Any) -> bool:
    """Return whether a value is text that can be written to any file."""
    if not isinstance(value, str) or "\0" in value:
        return False
    return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)


def shown(value: Any) -> str:
    """Return a short representation of any value of a JSON file."""
    text = _SHORT.repr(value)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


_LONGEST = 100
_SHORT = reprlib.Repr()
_SHORT.maxlist, _SHORT.maxdict, _SHORT.maxstring, _SHORT.maxlong = 8, 4, 60, 40


def id_problem(value: Any, place: str) -> tuple[str, str] | None:
    """Return rule and message if an id is missing or cannot be one."""
    if value is None:
        return "missing_field", f"{place} has no 'id'"
    if as_id(value) is None:
        expected = "an integer of 64 bits or text"
        return "invalid_id", f"{place} has the id {shown(value)}, not {expected}"
    return None


def image_problems(image: Mapping[str, Any]) -> Iterator[Found]:
    """Yield rule, field and message for each value of an image that is missing or unusable."""
    yield from _size_problems(image.get("height"), image.get("width"))
    names = image.get("file_name"), image.get("coco_url")
    if not any(names):
        yield "missing_field", "file_name", "it has neither a 'file_name' nor a 'coco_url'"
    for key, name in zip(("file_name", "coco_url"), names, strict=True):
        if name and not is_text(name):
            rule = "invalid_text" if isinstance(name, str) else "invalid_type"
            yield rule, key, f"the {key} is {shown(name)}, not text"
    for key in FEDERATED:
        ids = image.get(key, ())
        if not isinstance(ids, list | tuple):
            yield "invalid_type", key, f"the {key} are {shown(ids)}, not a list of ids"
        elif wrong := [i for i in ids if as_id(i) is None]:
            yield "invalid_type", key, f"the {key} have {shown(wrong[0])}, not an id"


def _size_problems(height: Any, width: Any) -> Iterator[Found]:
    if type(height) is type(width) is int and 0 < height <= _LONGEST_SIDE >= width > 0:
        return  # quick: images are many
    valid = True
    for key, value in (("height", height), ("width", width)):
        if type(value) is int and 0 < value <= _MOST_PIXELS:
            continue
        valid = False
        if value is None:
            yield "missing_field", key, f"it has no {key}"
        elif found := number_problem(value, f"the {key}"):
            yield found[0], key, found[1]
        else:
            message = f"the {key} is {shown(value)}, not a positive whole number"
            yield "invalid_image_size", key, message
    if valid and height * width > _MOST_PIXELS:
        yield "invalid_image_size", "height", f"{width} x {height} pixels are too many"


def whole_numbers(entry: dict[str, Any]) -> None:
    """Replace whole floats, such as 640.0, by integers wherever a field must be an integer."""
    for key in ("height", "width", "image_count"):
        value = entry.get(key)
        if isinstance(value, float) and value.is_integer():
            entry[key] = int(value)


def category_problems(category: Mapping[str, Any]) -> Iterator[Found]:
    """Yield rule, field and message for each value of a category that is missing or unusable."""
    name, count = category.get("name"), category.get("image_count")
    if name in (None, ""):
        yield "missing_name", "name", "it has no name and is called by its id"
    elif isinstance(name, str):
        if not is_text(name):
            yield "invalid_text", "name", f"the name is {shown(name)}"
    elif found := number_problem(name, "the name", "text or a number"):
        yield found[0], "name", found[1]
    if count is not None and (type(count) is not int or not 0 <= count <= _LARGEST_ID):
        message = f"the image_count is {shown(count)}, not a number of images"
        yield "invalid_type", "image_count", message
    frequency = category.get("frequency")
    if frequency is not None and frequency not in _FREQUENCIES:
        message = f"the frequency is {shown(frequency)}, not in {GROUPS}"
        yield "invalid_frequency", "frequency", message


_FREQUENCIES = [*GROUPS, UNKNOWN_FREQUENCY]


def checked_annotation(entry: Mapping[str, Any], place: str) -> tuple[Annotation, list[Found]]:
    """Read an annotation field by field.

    Returns:
        The annotation, with None for each unusable value, and rule, field and message of these.
    """
    values = {field: entry.get(field) for field in Annotation.__struct_fields__}
    rules = {
        "id": id_problem(values["id"], place),
        "bbox": _box_problem(values["bbox"]),
        "segmentation": _segmentation_problem(values["segmentation"]),
        "area": _area_problem(values["area"]),
        "iscrowd": _flag_problem("iscrowd", values["iscrowd"]),
        "ignore": _flag_problem("ignore", values["ignore"]),
    }
    for what in ("image", "category"):
        value = values[f"{what}_id"]
        if as_id(value) is None:
            rules[f"{what}_id"] = unknown_id(value, what, ())
    for field in ("id", "image_id", "category_id"):
        values[field] = as_id(values[field])
    found = [(rule[0], field, rule[1]) for field, rule in rules.items() if rule]
    values |= {field: None for _, field, _ in found}
    return Annotation(**values), found


def unknown_id(value: Any, what: str, known: Any) -> tuple[str, str]:
    """Return rule and message for the id of an image or category that is not listed.

    Args:
        value: the id.
        what: "image" or "category".
        known: the ids of the section, to look for the same id in another form.
    """
    section = {"image": "images", "category": "categories"}[what]
    message = f"the {what} id {shown(value)} is not in {section!r}"
    if (other := other_form(value)) is not None and other in known:
        pattern = "ids are text in one section and numbers in the other"
        message += f", which has {other!r}: {pattern}"
    return f"unknown_{what}", message


def other_form(value: Any) -> int | str | None:
    """Return text as an integer and an integer as text, None for anything else."""
    if isinstance(value, str):
        digits = value.strip().removeprefix("-")
        return int(value) if digits.isdecimal() and len(digits) < 20 else None
    return None if as_id(value) is None else str(as_id(value))


def number_problem(value: Any, what: str, expected: str = "a number") -> tuple[str, str] | None:
    """Return rule and message if a value is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "invalid_type", f"{what} is {shown(value)}, not {expected}"
    # Whole numbers in JSON can be larger than any float.
    if not -_LARGE < value < _LARGE:
        return "not_finite", f"{what} is {shown(value)}"
    return None


def _area_problem(area: Any) -> tuple[str, str] | None:
    if area is None:  # a missing one is seen in the table
        return None
    if found := number_problem(area, "the area"):
        return found
    if not 0 <= area <= LARGEST_AREA:
        return "invalid_area", f"the area is {shown(area)}, not in [0, {LARGEST_AREA:g}]"
    return None


def _flag_problem(key: str, value: Any) -> tuple[str, str] | None:
    if value is None or (isinstance(value, (int, float)) and value in (0, 1)):
        return None
    found = number_problem(value, repr(key))
    if found and found[0] == "not_finite":
        return found
    return "invalid_type", f"{key!r} must be 0 or 1, got {shown(value)}"


def _box_problem(box: Any) -> tuple[str, str] | None:
    if box is None:
        return "missing_field", "it has no 'bbox'"
    if not isinstance(box, list) or len(box) != 4:
        return "invalid_type", f"'bbox' must be four numbers, got {shown(box)}"
    for place, number in enumerate(box):
        if found := number_problem(number, f"number {place} of the box {shown(box)}"):
            return found
    return None


def _segmentation_problem(segmentation: Any) -> tuple[str, str] | None:
    if segmentation is None or segmentation == {}:
        return None
    if isinstance(segmentation, dict):
        try:
            compressed_rle(segmentation)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            return "invalid_rle", f"the run-length encoding cannot be read: {_reason(error)}"
        return None
    if not isinstance(segmentation, list) or not all(isinstance(p, list) for p in segmentation):
        return "invalid_segmentation", (
            "'segmentation' must be a list of polygons, each a list of numbers, or a run-length "
            f"encoding, got {shown(segmentation)}"
        )
    for index, polygon in enumerate(segmentation):
        for place, number in enumerate(polygon):
            if found := number_problem(number, f"number {place} of polygon {index}"):
                return found
    return None


def _reason(error: Exception) -> str:
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)
