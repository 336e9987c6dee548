"""Extents and areas of the masks of an annotation file, without drawing them.

Shapes in this module:
    A: annotations
    P: polygons
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from d2_seesaw.data.annotations.table import AnnotationTable

ROWS_AT_ONCE = 1 << 11
"""Rows of a block, few enough that intermediate results stay in the cache of the processor."""


@dataclass(frozen=True)
class MaskGeometry:
    """Extents and areas of masks.

    Attributes:
        extent: ``(A, 4)`` left, top, right and bottom in pixels; NaN without a usable mask.
        area: ``(A,)`` in pixels; NaN without a usable mask. Parts that overlap count twice.
    """

    extent: np.ndarray
    area: np.ndarray


def mask_geometry(table: AnnotationTable, blocks: Iterable[int] | None = None) -> MaskGeometry:
    """Compute extents and areas from the coordinates of polygons and from run lengths.

    Polygons of fewer than three points are left out.

    Args:
        table: the annotations.
        blocks: compute only those of these blocks of ``ROWS_AT_ONCE`` rows; by default all.
    """
    A = len(table.image)
    extent, area = np.full((A, 4), np.nan), np.full(A, np.nan)
    encoded = []
    for block in range(-(-A // ROWS_AT_ONCE)) if blocks is None else blocks:
        start = block * ROWS_AT_ONCE
        stop = min(start + ROWS_AT_ONCE, A)
        rows, extents, areas = _of_polygons(table, start, stop)
        extent[rows], area[rows] = extents, areas
        encoded += [start + np.flatnonzero(np.diff(table.rle_offsets[start : stop + 1]))]
    encoded = np.concatenate(encoded) if encoded else np.zeros(0, np.int64)
    if len(encoded):
        rles: Any = [table.segmentation(row) for row in encoded.tolist()]
        boxes = np.asarray(mask_utils.toBbox(rles)).reshape(-1, 4)
        area[encoded] = mask_utils.area(rles)
        extent[encoded] = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        extent[encoded[area[encoded] == 0]] = np.nan
    return MaskGeometry(extent, area)


def _of_polygons(
    table: AnnotationTable, start: int, stop: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return those of the rows ``[start, stop)`` that have polygons, their extents and areas."""
    first, last = table.polygon_offsets[start], table.polygon_offsets[stop]
    offsets = table.coordinate_offsets[first : last + 1]
    numbers = np.diff(offsets)
    valid = (numbers >= 6) & (numbers % 2 == 0)
    rows = np.repeat(np.arange(start, stop), np.diff(table.polygon_offsets[start : stop + 1]))
    coordinates = table.coordinates[offsets[0] : offsets[-1]]
    if not valid.all():
        coordinates = coordinates[np.repeat(valid, numbers)]
        numbers, rows = numbers[valid], rows[valid]
    if not len(rows):
        return rows, np.zeros((0, 4)), np.zeros(0)
    x, y = (np.ascontiguousarray(coordinates[axis::2]) for axis in (0, 1))
    points = numbers // 2
    begins = np.cumsum(points) - points
    areas = np.abs(_signed_areas(x, y, begins, begins + points - 1))
    of_row = np.flatnonzero(np.diff(rows, prepend=-1))  # first polygon of each row
    sides = [
        operation.reduceat(operation.reduceat(values, begins), of_row)
        for operation in (np.minimum, np.maximum)
        for values in (x, y)
    ]
    return rows[of_row], np.stack(sides, axis=1), np.add.reduceat(areas, of_row)


def _signed_areas(x: np.ndarray, y: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return ``(P,)`` areas by the shoelace formula, negative for the other orientation."""
    with np.errstate(over="ignore", invalid="ignore"):  # coordinates may be huge
        cross = np.empty(len(x))
        np.multiply(x[:-1], y[1:], out=cross[:-1])
        cross[:-1] -= x[1:] * y[:-1]
        cross[ends] = x[ends] * y[begins] - x[begins] * y[ends]
        return np.add.reduceat(cross, begins) / 2
