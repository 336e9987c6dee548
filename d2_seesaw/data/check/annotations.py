"""Problems of an annotation file in COCO or LVIS format, without looking at images.

Reading the file finds entries that break a rule of the format. This module adds what is legal but
wrong: boxes outside of their image, polygons of two points, categories without images.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from d2_seesaw.data.annotations.coco import ParsedFile
from d2_seesaw.data.annotations.table import AnnotationTable
from d2_seesaw.data.check.issues import Issue

_PIXEL = 1.0  # boxes that were rounded reach that far beyond an image


def check_annotations(parsed: ParsedFile) -> list[Issue]:
    """Check annotations that were parsed with ``keep_all``.

    Returns:
        All issues: first those of the format, in the order of the file.
    """
    return list(_AnnotationCheck(parsed).issues())


class _AnnotationCheck:
    def __init__(self, parsed: ParsedFile) -> None:
        self.parsed, self.table = parsed, parsed.table
        self.image_of = {image["id"]: image for image in parsed.table.images}

    def issues(self) -> Iterator[Issue]:
        found = {p.message for p in self.parsed.problems}
        for section, number in self.parsed.numbers.items():
            message = f"the file lists no {section}"
            if not number and not {message, f"the file has no list of {section!r}"} & found:
                yield Issue("missing_field", message)
        for p in self.parsed.problems:
            image = self.image_of.get(p.image_id)
            file_name = None if image is None else _file_name(image)
            known = (file_name, p.image_id, p.annotation_id, p.category_id)
            yield Issue(p.kind, p.message, *known)
        for kind, row, message in self._values():
            index = int(self.table.image[row])
            image = self.table.images[index] if index >= 0 else {}
            name = self.table.annotation_id[row].item()
            yield Issue(kind, message, _file_name(image), image.get("id"), name)
        yield from self._unused()

    def _values(self) -> Iterator[tuple[str, int, str]]:
        """Yield kind, row and message for each annotation with an unusual value."""
        table = self.table
        for row in self._rows(np.isnan(table.area), "area"):
            yield "missing_area", row, "it has no area"
        yield from _box_issues(table)
        for row in self._rows(table.crowd):
            form = {list: "polygons", dict: "a run-length encoding"}
            yield "crowd", row, f"crowd, as {form.get(type(table.segmentation(row)), 'a box')}"
        if table.has_segmentation.any():
            for row in self._rows(~table.has_segmentation, "segmentation"):
                yield "empty_segmentation", row, "no segmentation, while other annotations have one"
        yield from _polygon_issues(table)
        yield from _rle_issues(table)

    def _rows(self, chosen: np.ndarray, field: str | None = None) -> list[int]:
        """Return the chosen rows, but for those whose ``field`` is already known to be unusable."""
        known = {p.row for p in self.parsed.problems if field and p.field == field}
        return [row for row in np.flatnonzero(chosen).tolist() if row not in known]

    def _unused(self) -> Iterator[Issue]:
        categories = set(self.table.category.tolist())
        for index, category in enumerate(self.table.categories):
            if index not in categories:
                message = f"no image shows {category['name']!r}"
                yield Issue("category_without_images", message, category_id=category["id"])
        images = set(self.table.image.tolist())
        for index, image in enumerate(self.table.images):
            if index not in images:
                kind = "image_without_annotations"
                yield Issue(kind, "no annotations", _file_name(image), image["id"])


def _file_name(image: Any) -> str | None:
    return image.get("file_name") or image.get("coco_url")


def _box_issues(table: AnnotationTable) -> Iterator[tuple[str, int, str]]:
    sizes = np.array([[i.get("width", np.nan), i.get("height", np.nan)] for i in table.images])
    sizes = np.concatenate([sizes.reshape(-1, 2), [[np.nan, np.nan]]])[table.image]  # -1 is last
    low, size = table.box[:, :2], table.box[:, 2:]
    high = low + size
    empty = np.any(size <= 0, axis=1)
    outside = ~empty & np.any((high <= 0) | (low >= sizes), axis=1)
    beyond = ~empty & ~outside & np.any((low < -_PIXEL) | (sizes - high < -_PIXEL), axis=1)
    for row in np.flatnonzero(empty | outside | beyond).tolist():
        box = table.box[row].tolist()
        place = f"{sizes[row, 0]:g} x {sizes[row, 1]:g} pixels"
        if empty[row]:
            yield "zero_area_box", row, f"the box {box} has the size {box[2]:g} x {box[3]:g}"
        elif outside[row]:
            yield "box_outside_image", row, f"the box {box} is outside of {place}"
        else:
            yield "box_beyond_image", row, f"the box {box} reaches beyond {place}"


def _polygon_issues(table: AnnotationTable) -> Iterator[tuple[str, int, str]]:
    invalid = np.flatnonzero(~table.valid_polygons)
    rows = np.searchsorted(table.polygon_offsets, invalid, side="right") - 1
    numbers = np.diff(table.coordinate_offsets)[invalid]
    places = invalid - table.polygon_offsets[rows]
    for row, place, number in zip(*(a.tolist() for a in (rows, places, numbers)), strict=True):
        yield "invalid_polygon", row, f"polygon {place} has {number / 2:g} points"


def _rle_issues(table: AnnotationTable) -> Iterator[tuple[str, int, str]]:
    for row in np.flatnonzero(np.diff(table.rle_offsets)).tolist():
        rle = table.segmentation(row)
        image = table.images[table.image[row]] if table.image[row] >= 0 else {}
        size = [image.get("height"), image.get("width")]
        if None not in size and rle["size"] != size:
            yield "invalid_rle", row, f"the run-length encoding is of {rle['size']}, not {size}"
        elif not mask_utils.area(rle):
            yield "empty_segmentation", row, "the run-length encoding covers no pixel"
