"""Annotations that are legal but unlikely: boxes, areas and masks that contradict each other.

Loading accepts these files. A fault of most entries is one error, because a model trained on them
learns something else than the user wants. A fault of single entries, which COCO and LVIS have too,
is a warning.

Shapes in this module:
    A: annotations
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from d2_seesaw.data.annotations.box_formats import (
    BoxFormat,
    box_fits,
    box_format,
    fitting_format,
)
from d2_seesaw.data.annotations.coco import ParsedFile
from d2_seesaw.data.annotations.mask_geometry import MaskGeometry, mask_geometry
from d2_seesaw.data.annotations.table import AnnotationTable
from d2_seesaw.data.check.issues import Issue
from d2_seesaw.data.check.values import usable_polygons
from d2_seesaw.data.rle import encode_segmentation

_CONTRADICTION = 0.5  # IoU of a box and its mask that have little in common
_AREA_FACTOR = 2.0
_SAME_AREA = 0.01
_MOST, _LEAST_BOXED = 0.9, 3
_DRAWN = 1000  # masks that are drawn to confirm that most areas are wrong


def check_plausibility(parsed: ParsedFile) -> list[Issue]:
    """Check annotations that were parsed with ``keep_all``.

    Returns:
        Issues of rules that apply to plausibility, except for those of names.
    """
    found = _Plausibility(parsed.table)
    return [*found.boxes(), *found.areas(), *found.tiny()]


def area_differs(area: np.ndarray, expected: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return ``(A,)`` whether an area is not even half, or more than twice, the expected one.

    Half of the circumference is allowed for pixels that count in part.

    Args:
        area: ``(A,)`` areas in the file.
        expected: ``(A,)`` areas of the masks or boxes; NaN if they are unknown.
        size: ``(A, 2)`` width and height of the boxes or masks.
    """
    slack = np.abs(size).sum(axis=1) + 1
    with np.errstate(invalid="ignore", over="ignore"):
        above = area > _AREA_FACTOR * expected + slack
        return above | (area < expected / _AREA_FACTOR - slack)


def areas_of_boxes(area: np.ndarray, of_mask: np.ndarray, of_box: np.ndarray) -> np.ndarray | None:
    """Return ``(A,)`` areas that are those of boxes, if nine tenths of the areas are.

    Objects that fill their box are not counted. Areas of both are NaN where they are unknown.
    """
    with np.errstate(invalid="ignore"):
        boxed = np.abs(area - of_box) <= _SAME_AREA * of_box
        judged = np.isfinite(area) & (np.abs(of_mask - of_box) > _SAME_AREA * of_box)
    boxed &= judged
    return boxed if boxed.sum() >= max(_LEAST_BOXED, _MOST * judged.sum()) else None


def drawn_areas(table: AnnotationTable, rows: np.ndarray) -> np.ndarray:
    """Return areas of masks as pycocotools draws them; NaN if the size of the image is unknown."""
    areas = np.full(len(rows), np.nan)
    for place, row in enumerate(rows.tolist()):
        image = table.images[table.image[row]]
        mask: Any = table.segmentation(row)
        if isinstance(mask, list) and {"height", "width"} <= image.keys():
            mask = encode_segmentation(usable_polygons(mask), (image["height"], image["width"]))
        rle: Any = None if isinstance(mask, list) else mask
        if rle is not None:
            areas[place] = mask_utils.area(rle)
    return areas


@dataclass(frozen=True)
class _Plausibility:
    """The rules, over columns of all annotations."""

    table: AnnotationTable

    @cached_property
    def masks(self) -> MaskGeometry:
        return mask_geometry(self.table)

    @cached_property
    def single(self) -> np.ndarray:
        """``(A,)`` whether an annotation is of a single object in a known image."""
        return ~self.table.crowd & (self.table.image >= 0)

    @cached_property
    def sound(self) -> np.ndarray:
        """``(A,)`` whether a box has a size and is in its image, at least in part."""
        low, size = self.table.box[:, :2], self.table.box[:, 2:]
        inside = (size > 0) & (low + size > 0) & (low < self.table.image_sizes)
        return self.single & inside[:, 0] & inside[:, 1]

    @cached_property
    def format(self) -> BoxFormat | None:
        return box_format(self.table, self.masks)

    @cached_property
    def misfits(self) -> np.ndarray:
        """``(A,)`` whether the box of a single object is not that of its mask."""
        masked = self.single & np.isfinite(self.masks.extent[:, 0] + self.table.box.sum(axis=1))
        masked[masked] = ~self._fits(masked)
        return masked

    def _fits(self, rows: np.ndarray, **options: float) -> np.ndarray:
        box, extent = self.table.box[rows], self.masks.extent[rows]
        return box_fits(box, extent, self.table.image_sizes[rows], **options)

    def boxes(self) -> Iterator[Issue]:
        explained = np.zeros(len(self.single), bool)
        if self.format is not None:
            explained = self.format.fitting
            number = f"{int(explained.sum()):,} of {self.format.judged:,}"
            name, reason = self.format.name, self.format.reason
            yield Issue("box_format", f"{number} boxes look like {name}: {reason}")
        elif self.misfits.any():
            masked = self.single & np.isfinite(self.masks.area)
            other = int((~self._fits(self.misfits, least_iou=_CONTRADICTION)).sum())
            if other > masked.sum() / 2:
                message = f"{other:,} of {masked.sum():,} boxes are not those of their masks"
                if 0 < self.masks.extent[masked].max() <= 1:
                    message += "; the masks look like shares of the image from 0 to 1"
                yield Issue("boxes_unlike_masks", message)
        for row in np.flatnonzero(self.misfits & self.sound & ~explained).tolist():
            box, extent = self.table.box[row], self.masks.extent[row]
            of_mask = np.round([*extent[:2], *(extent[2:] - extent[:2])], 2).tolist()
            message = f"the box {box.tolist()} is not that of its mask, {of_mask}"
            if name := fitting_format(box, extent, self.table.image_sizes[row]):
                message += f", but would be as {name}"
            yield self._issue("box_unlike_mask", row, message)

    def areas(self) -> Iterator[Issue]:
        table, of_box = self.table, self.table.box[:, 2:].prod(axis=1)
        has_mask = np.isfinite(self.masks.area)
        if self.format is not None:  # the boxes tell no area
            of_box = np.full_like(of_box, np.nan)
        expected = np.where(has_mask, self.masks.area, np.where(self.sound, of_box, np.nan))
        extent = self.masks.extent
        size = np.where(has_mask[:, None], extent[:, 2:] - extent[:, :2], table.box[:, 2:])
        judged = self.single & np.isfinite(table.area) & np.isfinite(expected)
        far = judged & area_differs(table.area, expected, size)
        of_mask = np.where(judged, self.masks.area, np.nan)
        boxed = areas_of_boxes(table.area, of_mask, of_box)
        if boxed is not None and (boxed & far).any():
            message = f"{int(boxed.sum()):,} areas are width x height of the box"
            yield Issue("area_of_box", message)
            far &= ~boxed
        yield from self._far_areas(far, judged, expected)

    def _far_areas(
        self, far: np.ndarray, judged: np.ndarray, expected: np.ndarray
    ) -> Iterator[Issue]:
        rows = np.flatnonzero(far)
        if len(rows) > judged.sum() / 2:
            some = rows[:: max(1, len(rows) // _DRAWN)]
            if self._confirmed(some).mean() >= _MOST:
                values = np.unique(self.table.area[rows])
                equal = f", all {values[0]:g}" if len(values) == 1 else ""
                message = f"{len(rows):,} of {int(judged.sum()):,} areas are far off{equal}"
                yield Issue("areas_unlike_masks", message)
                return
        rows = rows[self.table.area[rows] != 0]  # these are named when the file is read
        for row in rows[self._confirmed(rows)].tolist():
            what = "mask" if np.isfinite(self.masks.area[row]) else "box"
            message = f"the area is {self.table.area[row]:g}, that of the {what} {expected[row]:g}"
            yield self._issue("area_unlike_mask", row, message)

    def _confirmed(self, rows: np.ndarray) -> np.ndarray:
        """Return whether areas are far off from those of drawn masks, too.

        Polygons that cross themselves or overlap have another area when they are drawn.
        """
        found = np.ones(len(rows), bool)
        has_polygons = np.diff(self.table.polygon_offsets)[rows] > 0
        has_polygons &= (np.abs(self.masks.extent[rows]) < 1e5).all(axis=1)  # can be drawn
        drawn, extent = drawn_areas(self.table, rows[has_polygons]), self.masks.extent[rows]
        size = (extent[:, 2:] - extent[:, :2])[has_polygons]
        area = self.table.area[rows][has_polygons]
        found[has_polygons] = np.isnan(drawn) | area_differs(area, drawn, size)
        return found

    def tiny(self) -> Iterator[Issue]:
        if self.format is None:
            for row in np.flatnonzero(
                self.sound & (self.table.box[:, 2:].min(axis=1) < 1)
            ).tolist():
                width, height = self.table.box[row, 2:].tolist()
                yield self._issue("tiny_box", row, f"the box is {width:g} x {height:g} pixels")
        with np.errstate(invalid="ignore"):
            tiny = self.sound & (self.masks.area < 1)
        for row in np.flatnonzero(tiny).tolist():
            message = f"the mask has an area of {self.masks.area[row]:.2g} pixels"
            yield self._issue("tiny_mask", row, message)

    def _issue(self, kind: str, row: int, message: str) -> Issue:
        image = self.table.images[self.table.image[row]]
        name = image.get("file_name") or image.get("coco_url")
        return Issue(kind, message, name, image["id"], self.table.annotation_id[row].item())
