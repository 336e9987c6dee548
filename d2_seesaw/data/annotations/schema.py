"""The structure of annotation files in COCO or LVIS format, and the rules for single entries."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypedDict

from msgspec import Meta, Struct

from d2_seesaw.data.rle import compressed_rle

SECTIONS = ("images", "annotations", "categories")
FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")

Id = int | float | str
_LARGE = 1e300  # no coordinate of an image is larger
Coordinate = Annotated[float, Meta(gt=-_LARGE, lt=_LARGE)]


class Image(TypedDict, total=False):
    """The fields of an image that are read."""

    id: Id
    height: int
    width: int
    file_name: str
    coco_url: str
    neg_category_ids: list[Id]
    not_exhaustive_category_ids: list[Id]


class Category(TypedDict, total=False):
    """The fields of a category that are read."""

    id: Id
    name: Id
    image_count: int
    frequency: str


class Annotation(Struct, gc=False):
    """The fields of an annotation that are read. None stands for a missing value."""

    id: Id | None = None
    image_id: Id | None = None
    category_id: Id | None = None
    bbox: Annotated[list[Coordinate], Meta(min_length=4, max_length=4)] | None = None
    segmentation: list[list[Coordinate]] | dict[str, Any] | None = None
    area: Coordinate | None = None
    iscrowd: Annotated[int, Meta(ge=0, le=1)] | bool | None = None
    ignore: int | bool | None = None


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
    def prevents_training(self) -> bool:
        """Whether the file cannot be used for training."""
        return self.kind not in ("missing_area", "missing_name")

    def __str__(self) -> str:
        name = "" if self.annotation_id is None else f"annotation {self.annotation_id!r}: "
        return name + self.message


def is_id(value: Any) -> bool:
    """Return whether a value can be an id: a number or text."""
    return isinstance(value, (int, float, str))


def id_problem(value: Any, place: str) -> tuple[str, str] | None:
    """Return kind and message if an id is missing or has another type."""
    if value is None:
        return "missing_field", f"{place} has no 'id'"
    if not is_id(value):
        return "missing_field", f"{place} has the id {value!r}, not a number or text"
    return None


def image_problems(image: Mapping[str, Any], place: str) -> Iterator[tuple[str, str, str]]:
    """Yield kind, field and message for each value of an image that is missing or unusable."""
    for key in ("height", "width"):
        value = image.get(key)
        if not isinstance(value, (int, float)) or not 1 <= value < _LARGE or value % 1:
            yield (
                "missing_field",
                key,
                f"{place} has the {key} {value!r}, not a positive whole number",
            )
    names = {key: name for key in ("file_name", "coco_url") if (name := image.get(key))}
    if not names:
        yield "missing_field", "file_name", f"{place} has neither a 'file_name' nor a 'coco_url'"
    for key, name in names.items():
        if not isinstance(name, str):
            yield "missing_field", key, f"{place} has the name {name!r}, not text"
    for key in FEDERATED:
        if not isinstance(image.get(key, []), list | None):
            yield "missing_field", key, f"{place} has the {key} {image[key]!r}, not a list"


def category_problems(category: Mapping[str, Any], place: str) -> Iterator[tuple[str, str, str]]:
    """Yield kind, field and message for each value of a category that is missing or unusable."""
    name, count = category.get("name"), category.get("image_count")
    if name is None:
        yield "missing_name", "name", "it has no name and is called by its id"
    elif not is_id(name):
        yield "missing_field", "name", f"{place} has the name {name!r}, not text or a number"
    if not isinstance(count, int | None):
        message = f"{place} has the image_count {count!r}, not a whole number"
        yield "missing_field", "image_count", message


def checked_annotation(
    entry: Mapping[str, Any], place: str
) -> tuple[Annotation, list[tuple[str, str, str]]]:
    """Read an annotation field by field.

    Returns:
        The annotation, with None for each unusable value, and kind, field and message of these.
    """
    values = {field: entry.get(field) for field in Annotation.__struct_fields__}
    found = []
    rules = {
        "id": id_problem(values["id"], place),
        "area": _area_problem(values["area"]),
        "iscrowd": _crowd_problem(values["iscrowd"]),
        "bbox": _box_problem(values["bbox"]),
        "segmentation": _segmentation_problem(values["segmentation"]),
    }
    for what in ("image", "category"):
        if not is_id(values[f"{what}_id"]):
            kind, _, message = unknown_id(values[f"{what}_id"], what)
            rules[f"{what}_id"] = kind, message
    for field, problem in rules.items():
        if problem:
            found.append((problem[0], field, problem[1]))
            values[field] = None
    return Annotation(**values), found


def unknown_id(value: Any, what: str) -> tuple[str, None, str]:
    """Return kind, field and message for the id of an image or category that is not listed."""
    section = {"image": "images", "category": "categories"}[what]
    return f"unknown_{what}", None, f"the {what} id {value!r} is not in {section!r}"


def _area_problem(area: Any) -> tuple[str, str] | None:
    if area is None or _are_finite([area]):  # a missing one is seen in the table
        return None
    return "not_finite" if isinstance(area, float) else "missing_area", f"the area is {area!r}"


def _crowd_problem(crowd: Any) -> tuple[str, str] | None:
    if crowd in (None, 0, 1):
        return None
    return "missing_field", f"'iscrowd' must be 0 or 1, got {crowd!r}"


def _box_problem(box: Any) -> tuple[str, str] | None:
    if not isinstance(box, list) or len(box) != 4:
        return "missing_field", f"'bbox' must be four numbers, got {box!r}"
    return None if _are_finite(box) else ("not_finite", f"the box is {box}")


def _segmentation_problem(segmentation: Any) -> tuple[str, str] | None:
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        try:
            compressed_rle(segmentation)
        except (KeyError, TypeError, ValueError) as error:
            return "invalid_rle", f"the run-length encoding cannot be read: {error!r}"
        return None
    if not isinstance(segmentation, list) or not all(isinstance(p, list) for p in segmentation):
        return "missing_field", (
            "'segmentation' must be a list of polygons, each a list of numbers, or a run-length "
            f"encoding, got {segmentation!r}"
        )
    for index, polygon in enumerate(segmentation):
        for place, number in enumerate(polygon):
            if not _are_finite([number]):
                return "not_finite", f"polygon {index} has the coordinate {number!r} at {place}"
    return None


def _are_finite(numbers: Sequence[Any]) -> bool:
    # Whole numbers in JSON can be larger than any float.
    return all(isinstance(n, (int, float)) and abs(n) < _LARGE for n in numbers)
