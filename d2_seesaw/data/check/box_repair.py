"""Boxes and areas of an annotation file that its masks or images correct.

Shapes in this module:
    A: annotations
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from d2_seesaw.data.annotations.box_formats import BoxFormat, box_fits, recognize_format
from d2_seesaw.data.check.plausibility import area_differs, areas_of_boxes
from d2_seesaw.data.check.values import is_number, usable_polygons, whole_or_rounded
from d2_seesaw.data.rle import compressed_rle, encode_segmentation

_PIXEL = 1.0  # boxes that were rounded reach that far beyond an image
_SLIGHTLY, _FEW_PIXELS = 0.1, 2.0  # of a side of the box, or pixels if that is more
_CLOSE = 0.1  # of an area
_LARGE = 1e5  # coordinates that are not drawn


@dataclass(frozen=True)
class BoxColumns:
    """Boxes, areas and masks of annotations. NaN stands for unusable values.

    Attributes:
        masks: A segmentations, as in the file.
        box: ``(A, 4)`` left, top, width and height.
        area: ``(A,)`` areas in the file.
        size: ``(A, 2)`` width and height of the images.
        crowd: ``(A,)`` whether an annotation is a crowd.
        extent: ``(A, 4)`` left, top, right and bottom of the masks.
        mask_area: ``(A,)`` areas of the masks.
    """

    masks: list[Any]
    box: np.ndarray
    area: np.ndarray
    size: np.ndarray
    crowd: np.ndarray
    extent: np.ndarray
    mask_area: np.ndarray

    @classmethod
    def of(
        cls,
        entries: Sequence[Mapping[str, Any]],
        size_of: Callable[[Mapping[str, Any]], Sequence[Any]],
    ) -> "BoxColumns":
        """Collect the columns of entries; ``size_of`` returns width and height of the image."""
        nan = float("nan")
        boxes, areas, of_image, extents, mask_areas = [], [], [], [], []
        for entry in entries:
            box, area, size = entry.get("bbox"), entry.get("area"), size_of(entry)
            is_box = isinstance(box, list) and len(box) == 4 and all(map(is_number, box))
            boxes.append(box if is_box else [nan] * 4)
            areas.append(area if is_number(area) else nan)
            of_image.append(size if len(size) == 2 and all(map(is_number, size)) else (nan, nan))
            extent, mask_area = _mask_of(entry.get("segmentation"), size)
            extents.append(extent)
            mask_areas.append(mask_area)
        A = len(boxes)
        if A and np.fmax.reduce(extents, axis=None) <= 1:  # shares of the image, not pixels
            extents, mask_areas = [[nan] * 4] * A, [nan] * A
        return cls(
            masks=[entry.get("segmentation") for entry in entries],
            box=np.array(boxes, float).reshape(A, 4),
            area=np.array(areas, float),
            size=np.array(of_image, float).reshape(A, 2),
            crowd=np.array([bool(entry.get("iscrowd")) for entry in entries], bool),
            extent=np.array(extents, float).reshape(A, 4),
            mask_area=np.array(mask_areas, float),
        )

    def new_boxes(self) -> Iterator[tuple[int, list[float], str]]:
        """Yield row, box and reason of each box to change."""
        single = ~self.crowd
        missing = ~np.isfinite(self.box.sum(axis=1))
        masked = np.isfinite(self.mask_area)
        other = masked & single & ~missing
        found = self._format()
        if found is None:
            other[other] = ~box_fits(self.box[other], self.extent[other], self.size[other])
        else:  # also boxes that fit by accident
            box = np.concatenate(
                [self.extent[:, :2], np.diff(self.extent.reshape(-1, 2, 2), axis=1)[:, 0]], axis=1
            )
            other[other] = (np.abs(box - self.box)[other] > _PIXEL / 2).any(axis=1)
        for row in np.flatnonzero(masked & (missing | other)).tolist():
            extent = self._clipped(self.extent[row], row)
            if (extent[2:] > extent[:2]).all():
                reason = "boxes missing" if missing[row] else "boxes unlike their masks"
                yield row, _as_box(extent), reason
        if found is not None:
            return
        low, size = self.box[:, :2], self.box[:, 2:]
        with np.errstate(invalid="ignore"):
            reach = np.maximum(-low, low + size - self.size)
            beyond = (reach > _PIXEL).any(axis=1) & (
                reach <= np.maximum(_SLIGHTLY * size, _FEW_PIXELS)
            ).all(axis=1)
        for row in np.flatnonzero(beyond & ~missing & ~other).tolist():
            corners = np.concatenate([low[row], low[row] + size[row]])
            yield row, _as_box(self._clipped(corners, row)), "boxes slightly beyond the image"

    def _format(self) -> BoxFormat | None:
        single = ~self.crowd
        return recognize_format(self.box[single], self.extent[single], self.size[single])

    def _clipped(self, corners: np.ndarray, row: int) -> np.ndarray:
        return np.fmin(np.fmax(corners, 0), np.tile(self.size[row], 2))

    def new_areas(self) -> Iterator[tuple[int, float, str]]:
        """Yield row, area and reason of each area to change."""
        single, masked = ~self.crowd, np.isfinite(self.mask_area)
        with np.errstate(invalid="ignore", over="ignore"):
            of_box = self.box[:, 2:].prod(axis=1)
            of_box[(self.box[:, 2:] <= 0).any(axis=1) | (self._format() is not None)] = np.nan
            missing = np.logical_not(self.area > 0)
            expected = np.where(masked, self.mask_area, of_box)
            far = np.abs(self.area - expected) > _CLOSE * expected
        extent = self.extent[:, 2:] - self.extent[:, :2]
        side = np.where(masked[:, None], extent, self.box[:, 2:])
        differs = single & area_differs(self.area, expected, side)
        boxed = areas_of_boxes(self.area, np.where(single, self.mask_area, np.nan), of_box)
        surely = missing.copy()  # without drawing the mask
        if differs.sum() > (single & np.isfinite(self.area + expected)).sum() / 2:
            surely |= single & far
        elif boxed is not None and (boxed & differs).any():
            surely |= boxed
        for row in np.flatnonzero((surely | differs) & (expected > 0)).tolist():
            drawn = self._drawn(row) if masked[row] else np.nan
            given = (self.area[row : row + 1], np.array([drawn]), side[row : row + 1])
            if surely[row] or np.isnan(drawn) or area_differs(*given)[0]:
                new = drawn if drawn > 0 else expected[row]
                reason = "areas missing" if missing[row] else "areas far off"
                yield row, whole_or_rounded(new), reason

    def _drawn(self, row: int) -> float:
        """Return the area of a mask as pycocotools draws it, NaN if it cannot."""
        size, mask = self.size[row], self.masks[row]
        if isinstance(mask, dict):
            return float(self.mask_area[row])
        if not np.isfinite(size).all() or not (np.abs(self.extent[row]) < _LARGE).all():
            return float("nan")
        height, width = int(size[1]), int(size[0])
        drawn: Any = encode_segmentation(usable_polygons(mask), (height, width))
        return float(mask_utils.area(drawn))


def _mask_of(segmentation: Any, size: Sequence[Any]) -> tuple[list[float], float]:
    """Return extent and area of a mask; NaN if there is none that can be used.

    A run-length encoding of another size than the image, width and height, is not used.
    """
    unknown = [float("nan")] * 4, float("nan")
    if isinstance(segmentation, dict):
        try:
            if list(size) != list(segmentation["size"])[::-1]:
                return unknown
            rle: Any = compressed_rle(segmentation)
            x, y, width, height = np.asarray(mask_utils.toBbox(rle)).tolist()
            area = float(mask_utils.area(rle))
        except (KeyError, TypeError, ValueError):
            return unknown
        return ([x, y, x + width, y + height], area) if area else unknown
    polygons = usable_polygons(segmentation)
    if not polygons:
        return unknown
    xs, ys = ([p[axis::2] for p in polygons] for axis in (0, 1))
    extent = [min(map(min, xs)), min(map(min, ys)), max(map(max, xs)), max(map(max, ys))]
    area = 0.0
    for x, y in zip(xs, ys, strict=True):
        after = zip(x, y, [*x[1:], x[0]], [*y[1:], y[0]], strict=True)
        area += abs(sum(x0 * y1 - x1 * y0 for x0, y0, x1, y1 in after)) / 2
    return extent, area


def _as_box(corners: np.ndarray) -> list[float]:
    left, top, right, bottom = corners.tolist()
    return [whole_or_rounded(value) for value in (left, top, right - left, bottom - top)]
