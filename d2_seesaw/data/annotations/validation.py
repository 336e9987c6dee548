"""The rules for annotation files that concern a whole table, and the treatment of what is allowed.

They are vectorized, because LVIS has a million annotations. See ``schema.py`` for the rules for
single entries, and ``rules.py`` for their severity.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from d2_seesaw.data.annotations.schema import FEDERATED, Problem, other_form
from d2_seesaw.data.annotations.table import AnnotationTable
from d2_seesaw.data.rle import encode_segmentation

_PIXEL = 1.0  # boxes and polygons that were rounded reach that far beyond an image
_FAR = 10  # times the longer side of the image
_LONGEST_OUTLINE = 1e6  # pixels: more take seconds and gigabytes to rasterize

Rows = Iterator[tuple[str, str, int, str]]  # rule, field, row and message


def validate(table: AnnotationTable, problems: list[Problem]) -> AnnotationTable:
    """Add the rules that a table breaks to ``problems``, and treat what is allowed.

    - Polygons of fewer than three points are left out.
    - A missing area is that of the mask, or else of the box.
    - Categories without annotations that share the name of another one get a name of their own.
    - If some images have federated sets, those of other images are empty.

    Args:
        table: all annotations that can be represented.
        problems: what was found in single entries.

    Returns:
        The table after the treatment.
    """
    table = replace(
        table,
        images=_complete_federated_sets(table, problems),
        categories=_name_categories(table, problems),
    )
    _check_mixed_ids(table, problems)
    unusable = {(p.row, p.field) for p in problems}
    images = [image["id"] for image in table.images]
    rules = (_box_rules, _area_rules, _segmentation_rules, _polygon_rules, _rle_rules)
    sizes = table.image_sizes
    for rule, field, row, message in (broken for find in rules for broken in find(table, sizes)):
        if (row, field) not in unusable:
            image = images[table.image[row]] if table.image[row] >= 0 else None
            known = (image, table.annotation_id[row].item(), None, row)
            problems.append(Problem(rule, message, field, *known))
    table = _complete_areas(_without_short_polygons(table), problems)
    _check_training(table, problems)
    return table


def _check_mixed_ids(table: AnnotationTable, problems: list[Problem]) -> None:
    for section in ("images", "categories"):
        ids = [entry["id"] for entry in getattr(table, section)]
        text = [i for i in ids if isinstance(i, str)]
        if text and len(text) < len(ids):
            number = next(i for i in ids if not isinstance(i, str))
            message = f"ids of {section!r} are text and numbers, such as {text[0]!r} and {number}"
            problems.append(Problem("mixed_ids", message))


def _complete_federated_sets(
    table: AnnotationTable, problems: list[Problem]
) -> list[dict[str, Any]]:
    """Check the federated sets, and give all images both, if one has one of them."""
    known = {category["id"] for category in table.categories}
    federated = [image for image in table.images if any(field in image for field in FEDERATED)]
    if not federated:
        return table.images
    complete = []
    for image in table.images:
        name = {"image_id": image["id"]}
        for field in FEDERATED:
            if not known.issuperset(image.get(field, ())):
                unknown = [i for i in image[field] if i not in known]
                problems.append(Problem(*_unknown_categories(field, unknown, known), field, **name))
        if missing := [field for field in FEDERATED if field not in image]:
            message = f"it has no {' and no '.join(missing)}, while other images have some"
            problems.append(Problem("incomplete_federated_sets", message, None, **name))
            image = image | {field: [] for field in missing}
        complete.append(image)
    return complete


def _unknown_categories(field: str, unknown: Sequence[Any], known: set[Any]) -> tuple[str, str]:
    for value in unknown:
        if (other := other_form(value)) in known:
            pattern = "ids are text in one section and numbers in the other"
            return "unknown_category", f"{field} have {value!r}, 'categories' {other!r}: {pattern}"
    message = f"{field} have {unknown[0]!r}, which is not in 'categories'"
    return "unknown_federated_category", message


def _name_categories(table: AnnotationTable, problems: list[Problem]) -> list[dict[str, Any]]:
    """Give each category a name that is text and, if it has no annotations, its own."""
    used = np.isin(np.arange(len(table.categories)), table.category)
    # A category that is used keeps its name; if there is none, the last one does.
    order = sorted(range(len(used)), key=lambda i: (not used[i], i if used[i] else -i))
    named = [dict(category) for category in table.categories]
    owner: dict[str, int] = {}
    taken = {str(category.get("name", category["id"])) for category in named}
    for index in order:
        category = named[index]
        category["name"] = name = str(category.get("name", category["id"]))
        first = owner.setdefault(name, index)
        if first == index:
            continue
        other = named[first]["id"]
        if used[index]:
            message = f"category {other!r} is called {name!r}, too, and has annotations, too"
            problems.append(Problem("duplicate_name", message, "name", category_id=category["id"]))
            continue
        category["name"] = own = _own_name(name, category["id"], taken)
        message = f"category {other!r} is called {name!r}, too; without annotations it is {own!r}"
        problems.append(
            Problem("unused_duplicate_name", message, "name", category_id=category["id"])
        )
    return named


def _own_name(name: str, category_id: Any, taken: set[str]) -> str:
    own = f"{name} (id {category_id})"
    while own in taken:
        own += "'"
    taken.add(own)
    return own


def _either(condition: np.ndarray) -> np.ndarray:
    """Return whether a condition holds for x or y; faster than ``any`` along an axis of two."""
    return condition[:, 0] | condition[:, 1]


def _box_rules(table: AnnotationTable, sizes: np.ndarray) -> Rows:
    low, size = table.box[:, :2], table.box[:, 2:]
    high = low + size
    limit = _FAR * np.maximum(sizes[:, :1], sizes[:, 1:])
    negative = _either(size < 0)
    empty = ~negative & _either(size == 0)
    far = _either((low < -limit) | (high > sizes + limit))
    outside = ~negative & ~empty & ~far & _either((high <= 0) | (low >= sizes))
    beyond = _either((low < -_PIXEL) | (sizes - high < -_PIXEL))
    beyond &= ~(negative | empty | far | outside)
    for row in np.flatnonzero(negative | empty | far | outside | beyond).tolist():
        box = table.box[row].tolist()
        place = f"{sizes[row, 0]:g} x {sizes[row, 1]:g} pixels"
        if negative[row]:
            yield "negative_box", "bbox", row, f"the box {box} has a negative size"
        elif far[row]:
            yield "far_outside_image", "bbox", row, f"the box {box} reaches far beyond {place}"
        elif empty[row]:
            message = f"the box {box} has the size {box[2]:g} x {box[3]:g}"
            yield "zero_area_box", "bbox", row, message
        elif outside[row]:
            yield "box_outside_image", "bbox", row, f"the box {box} is outside of {place}"
        else:
            yield "box_beyond_image", "bbox", row, f"the box {box} reaches beyond {place}"


def _area_rules(table: AnnotationTable, _: np.ndarray) -> Rows:
    for row in np.flatnonzero(np.isnan(table.area)).tolist():
        yield "missing_area", "area", row, "it has no area"
    for row in np.flatnonzero(table.area == 0).tolist():
        yield "zero_area", "area", row, "the area is 0"


def _segmentation_rules(table: AnnotationTable, _: np.ndarray) -> Rows:
    if table.has_segmentation.any():
        for row in np.flatnonzero(~table.has_segmentation).tolist():
            message = "no segmentation, while other annotations have one"
            yield "empty_segmentation", "segmentation", row, message
    for row in np.flatnonzero(table.without_pixel).tolist():
        yield "empty_mask", "segmentation", row, "the run-length encoding covers no pixel"


def _rle_rules(table: AnnotationTable, sizes: np.ndarray) -> Rows:
    encoded = np.flatnonzero(np.diff(table.rle_offsets))
    sizes = sizes[encoded, ::-1]
    given = table.rle_size[encoded]
    wrong = np.flatnonzero(_either(given != sizes) & ~np.isnan(sizes).any(axis=1))
    for row, size, expected in zip(
        encoded[wrong].tolist(), given[wrong].tolist(), sizes[wrong].tolist(), strict=True
    ):
        expected = [int(side) for side in expected]
        hint = ": height and width are swapped" if size == expected[::-1] else ""
        message = f"the run-length encoding is of {size}, the image of {expected}{hint}"
        yield "invalid_rle", "segmentation", row, message


@dataclass(frozen=True)
class _Polygons:
    """Properties of each polygon of a table.

    Attributes:
        rows: ``(P,)`` the annotation.
        numbers: ``(P,)`` how many coordinates it has.
        low: ``(P, 2)`` lowest x and y; 0 for polygons of fewer than three points.
        high: ``(P, 2)`` highest x and y.
    """

    rows: np.ndarray
    numbers: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, table: AnnotationTable) -> "_Polygons":
        numbers = np.diff(table.coordinate_offsets)
        rows = np.repeat(np.arange(len(table.image)), np.diff(table.polygon_offsets))
        low, high = np.zeros((len(numbers), 2)), np.zeros((len(numbers), 2))
        whole = np.flatnonzero(_are_whole(numbers))
        if len(whole):
            coordinates, starts = table.coordinates, table.coordinate_offsets[whole]
            if len(whole) < len(numbers):  # rare: make them consecutive, all of an even length
                kept = np.repeat(_are_whole(numbers), numbers)
                coordinates = coordinates[kept]
                starts = np.cumsum(numbers[whole]) - numbers[whole]
            for axis in range(2):
                along = coordinates[axis::2]
                low[whole, axis] = np.minimum.reduceat(along, starts // 2)
                high[whole, axis] = np.maximum.reduceat(along, starts // 2)
        return cls(rows, numbers, low, high)


def _are_whole(numbers: np.ndarray) -> np.ndarray:
    """Return whether polygons of so many numbers have three points, and both numbers of each."""
    return (numbers >= 6) & (numbers % 2 == 0)


def _polygon_rules(table: AnnotationTable, sizes: np.ndarray) -> Rows:
    polygons = _Polygons.of(table)
    sizes = sizes[polygons.rows]
    limit = _FAR * np.maximum(sizes[:, :1], sizes[:, 1:])
    low, high, numbers = polygons.low, polygons.high, polygons.numbers
    odd, short = numbers % 2 == 1, (numbers % 2 == 0) & (numbers < 6)
    far = _either((low < -limit) | (high > sizes + limit))
    extent = high - low
    long = _are_long(table, np.flatnonzero(~far & (extent.sum(1) * numbers > _LONGEST_OUTLINE)))
    flat = ~odd & ~short & _either(extent == 0)
    beyond = _either((low < -_PIXEL) | (sizes - high < -_PIXEL)) & ~far & ~flat
    messages = (
        ("odd_polygon", odd, "{number:.1f} points"),
        ("invalid_polygon", short, "{number:.0f} points"),
        ("far_outside_image", far, "points from {low} to {high}, far beyond {place} pixels"),
        ("excessive_polygon", long, "an outline of more than {longest:g} pixels"),
        ("zero_area_polygon", flat, "points on one line, from {low} to {high}"),
        ("polygon_beyond_image", beyond, "points from {low} to {high}, beyond {place} pixels"),
    )
    for rule, chosen, text in messages:
        for index in np.flatnonzero(chosen).tolist():
            row = int(polygons.rows[index])
            values = {
                "number": numbers[index] / 2,
                "low": low[index].tolist(),
                "high": high[index].tolist(),
                "place": f"{sizes[index, 0]:g} x {sizes[index, 1]:g}",
                "longest": _LONGEST_OUTLINE,
            }
            place = index - int(table.polygon_offsets[row])
            yield rule, "segmentation", row, f"polygon {place} has {text.format(**values)}"


def _are_long(table: AnnotationTable, candidates: np.ndarray) -> np.ndarray:
    """Return whether the outline of a polygon is too long to rasterize."""
    long = np.zeros(len(table.coordinate_offsets) - 1, bool)
    for index in candidates.tolist():
        start, end = table.coordinate_offsets[index : index + 2].tolist()
        points = table.coordinates[start : end - (end - start) % 2].reshape(-1, 2)
        steps = np.abs(np.diff(points, axis=0, append=points[:1])).max(axis=1)
        long[index] = steps.sum() > _LONGEST_OUTLINE
    return long


def _without_short_polygons(table: AnnotationTable) -> AnnotationTable:
    numbers = np.diff(table.coordinate_offsets)
    whole = _are_whole(numbers)
    if whole.all():
        return table
    kept = np.concatenate([[0], np.cumsum(whole)])
    return replace(
        table,
        polygon_offsets=kept[table.polygon_offsets],
        coordinate_offsets=np.concatenate([[0], np.cumsum(numbers[whole])]),
        coordinates=table.coordinates[np.repeat(whole, numbers)],
    )


def _complete_areas(table: AnnotationTable, problems: Iterable[Problem]) -> AnnotationTable:
    """Compute missing areas as pycocotools does for results: of the mask, or of the box."""
    refused = {p.row for p in problems if p.is_error}
    rows = [r for r in np.flatnonzero(np.isnan(table.area)).tolist() if r not in refused]
    if not rows:
        return table
    area = table.area.copy()
    for row in rows:
        segmentation, image = table.segmentation(row), table.images[table.image[row]]
        area[row] = table.box[row, 2] * table.box[row, 3]
        if segmentation is not None and {"height", "width"} <= image.keys():
            rle: Any = encode_segmentation(segmentation, (image["height"], image["width"]))
            area[row] = coco_mask.area(rle) or area[row]
    return replace(table, area=area)


def _check_training(table: AnnotationTable, problems: list[Problem]) -> None:
    if (table.usable & ~table.crowd).any() or any(p.is_error for p in problems):
        return
    number, crowds = len(table.image), int(table.crowd.sum())
    message = f"none of {number} annotations is an object to train on, {crowds} are crowds"
    problems.append(Problem("nothing_to_train_on", message if number else "it has no annotations"))
