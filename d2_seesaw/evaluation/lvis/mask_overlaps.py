"""Mask IoUs of detections and objects, only where they matter.

numba draws polygons and compares pair by pair. Without it, pycocotools draws and compares many
masks in a call.

Shapes in this module:
    B: detections of a block
    C: candidates: a detection and an object of its pair
    U: objects of a block
"""

from __future__ import annotations

import itertools
from types import ModuleType
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from d2_seesaw.data.rle import MaskColumns
from d2_seesaw.data.rle.kernels import compiled_functions
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns
from d2_seesaw.evaluation.predictions.ordering import starts_of_runs

_MASKS_PER_CALL = 200  # pycocotools 2.0.11 with NumPy 2 overflows in ``area`` at 256
_MASKS_PER_BLOCK = 20_000  # whose texts are in memory at once
_CELLS_PER_CALL = 100
_NUMBERS_OF_A_BOX = 4  # pycocotools reads a polygon of two points as a box


def mask_ious(
    ground_truth: GroundTruthColumns,
    masks: MaskColumns,
    rows: np.ndarray,
    areas: np.ndarray,
    number: np.ndarray,
    objects: np.ndarray,
    least_iou: float,
) -> np.ndarray:
    """Return ``(C,)`` IoUs, 0 where the areas alone show that an IoU is below ``least_iou``.

    An IoU is at most the ratio of the smaller to the larger area, so nothing else is lost.

    Args:
        ground_truth: The annotations.
        masks: Masks of the detections.
        rows: ``(B,)`` their rows in ``masks``. Detections of a pair are neighbors.
        areas: ``(B,)`` their areas in pixels.
        number: ``(B,)`` number of objects of each detection, at least 1.
        objects: ``(C,)`` rows of these objects, detection by detection.
        least_iou: The lowest IoU that matters.
    """
    drawn, index = _distinct(objects, len(ground_truth.rows))
    sizes = ground_truth.image_sizes[ground_truth.images[drawn]]
    compiled = compiled_functions()
    texts: list[bytes] = []
    runs: tuple[np.ndarray, ...] = ()
    if compiled is not None:
        runs = _ends_of_runs(compiled, ground_truth, drawn)
        true_areas = compiled.areas_of_ends(*runs)[index]
    else:
        texts = _encode(ground_truth, drawn)
        true_areas = _areas(sizes.tolist(), texts)[index]
    own = np.repeat(areas, number)
    # Without pixels, neither mask has an IoU to lose.
    ratio = np.minimum(own, true_areas) / np.maximum(np.maximum(own, true_areas), 1)
    starts = np.cumsum(number) - number
    kept = np.flatnonzero(np.logical_or.reduceat(ratio >= least_iou, starts))
    ious = np.zeros(len(objects))
    if not len(kept):
        return ious
    if compiled is not None:
        # In the order of the file, so that masks read one after the other are close in memory.
        kept = kept[np.argsort(rows[kept], kind="stable")]
    n, rows = number[kept], rows[kept]
    places = _ranges(starts[kept], n)
    if compiled is not None:
        found = *masks.bytes_of(rows), masks.sizes[rows], n
        ious[places] = compiled.ious(*found, *runs, sizes, index[places])
    else:
        ious[places] = _ious_of_texts(masks, rows, n, texts, sizes.tolist(), index[places])
    return ious


def _ious_of_texts(
    masks: MaskColumns,
    rows: np.ndarray,
    number: np.ndarray,
    texts: list[bytes],
    sizes: list[list[int]],
    others: np.ndarray,
) -> np.ndarray:
    """Return the IoUs of masks with ``number`` others each, by pycocotools.

    Args:
        masks: Masks of the detections.
        rows: Rows of the detections.
        number: Objects of each detection.
        texts: Compressed counts of the objects.
        sizes: Their heights and widths.
        others: Places in ``texts``, detection by detection.
    """
    starts = np.cumsum(number) - number
    # Detections of one pair have the same first object.
    pairs = np.flatnonzero(starts_of_runs(others[starts]))
    there = others[_ranges(starts[pairs], number[pairs])].tolist()
    sides = np.diff(pairs, append=len(rows)), number[pairs]
    calls = np.array(_pairs_of_calls(*(side.tolist() for side in sides)))
    ends = [np.concatenate([[0], np.cumsum(side)]) for side in sides]
    bounds = [end[np.append(calls, len(pairs))].tolist() for end in ends]
    found_texts, found_sizes = masks.texts(rows), _sizes(masks, rows)
    matrices = []
    for (a, b), (c, d) in zip(*map(itertools.pairwise, bounds), strict=True):
        true: Any = _rles([sizes[i] for i in there[c:d]], [texts[i] for i in there[c:d]])
        found: Any = _rles(found_sizes[a:b], found_texts[a:b])
        matrix = np.empty((len(found), len(true)))
        matrix[:] = mask_utils.iou(found, true, [0] * len(true))
        matrices.append(matrix.reshape(-1))
    # Of the matrix of a call, only the blocks of its pairs are candidates.
    pair = np.repeat(np.arange(len(pairs)), sides[0])
    call = np.searchsorted(calls, pair, side="right") - 1
    height, width = (np.diff(bound) for bound in bounds)
    corner = np.cumsum(height * width) - height * width
    row = np.arange(len(rows)) - np.array(bounds[0])[call]
    column = ends[1][pair] - np.array(bounds[1])[call]
    cells = _ranges(corner[call] + row * width[call] + column, number)
    return np.concatenate(matrices)[cells]


def _distinct(objects: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the different objects, ascending, and the index of each in them.

    ``np.unique`` would sort them, which takes several times as long.

    Args:
        objects: Objects, less than ``number``.
        number: Length of the tables.
    """
    named = np.zeros(number, bool)
    named[objects] = True
    distinct = np.flatnonzero(named)
    table = np.empty(number, np.int64)
    table[distinct] = np.arange(len(distinct))
    return distinct, table[objects]


def _ends_of_runs(
    compiled: ModuleType, ground_truth: GroundTruthColumns, objects: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the ends of the runs of U objects, first place of each object, and number of its runs.

    Compiled functions draw polygons. Objects that they leave are encoded by pycocotools.
    """
    table, rows = ground_truth.table, ground_truth.rows[objects]
    sizes = ground_truth.image_sizes[ground_truth.images[objects]]
    polygons = table.polygon_offsets[rows], table.polygon_offsets[rows + 1]
    drawing = table.coordinates, table.coordinate_offsets, *polygons, sizes
    room = np.zeros(len(objects), np.int64)
    if compiled.POLYGONS_ARE_EXACT:
        room = compiled.most_runs(*drawing)
    others = np.flatnonzero(room == 0)
    texts = _encode(ground_truth, objects[others])
    bounds = np.concatenate([[0], np.cumsum(room)])
    last = bounds[-1]
    first = bounds[:-1]
    written = np.empty(last + sum(map(len, texts)), np.int64)
    number = compiled.draw(*drawing, bounds, written)
    text_bounds = np.cumsum([0, *map(len, texts)])
    first[others] = last + text_bounds[:-1]
    # Not of bytes: functions are compiled once more for arrays that cannot be written to.
    encoded = np.frombuffer(bytearray().join(texts), np.uint8), text_bounds[:-1], text_bounds[1:]
    number[others] = compiled.ends_of_runs(*encoded, first[others], written)
    return written, first, number


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the numbers of all ranges, one after the other."""
    return np.arange(lengths.sum()) + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)


def _pairs_of_calls(detections: list[int], objects: list[int]) -> list[int]:
    """Return the first pair of each call, given the numbers of detections and objects of pairs.

    pycocotools compares all masks of a call. For a few small pairs that takes less time than
    another call.
    """
    firsts: list[int] = []
    height = width = 0
    for pair, (more, wider) in enumerate(zip(detections, objects, strict=True)):
        if not firsts or (height + more) * (width + wider) > _CELLS_PER_CALL:
            firsts.append(pair)
            height = width = 0
        height, width = height + more, width + wider
    return firsts


def _sizes(masks: MaskColumns, rows: np.ndarray) -> list[list[int]]:
    """Return the sizes of the given rows; equal neighbors share a list, to save its memory."""
    sizes = masks.sizes[rows]
    differs = starts_of_runs(sizes[:, 0]) | starts_of_runs(sizes[:, 1])
    starts = np.flatnonzero(differs)
    shared: list[list[int]] = []
    for size, number in zip(
        sizes[starts].tolist(), np.diff(starts, append=len(sizes)).tolist(), strict=True
    ):
        shared += [size] * number
    return shared


def _rles(sizes: list[list[int]], texts: list[bytes]) -> list[dict[str, Any]]:
    # A loop over lists of bytes: many dicts at once would slow down the garbage collector.
    return [{"size": size, "counts": text} for size, text in zip(sizes, texts, strict=True)]


def _areas(sizes: list[list[int]], texts: list[bytes]) -> np.ndarray:
    compiled = compiled_functions()
    if compiled is not None:
        bounds = np.cumsum([0, *map(len, texts)])
        return compiled.areas(np.frombuffer(b"".join(texts), np.uint8), bounds[:-1], bounds[1:])
    areas = np.zeros(len(texts))
    for start in range(0, len(texts), _MASKS_PER_CALL):
        block = slice(start, start + _MASKS_PER_CALL)
        rles: Any = _rles(sizes[block], texts[block])
        areas[block] = mask_utils.area(rles)
    return areas


def mask_areas(masks: MaskColumns, rows: np.ndarray) -> np.ndarray:
    """Return the areas of the masks of the given rows, in pixels."""
    compiled = compiled_functions(len(rows))
    parts = [
        rows[start : start + _MASKS_PER_BLOCK] for start in range(0, len(rows), _MASKS_PER_BLOCK)
    ]
    if compiled is not None:
        return np.concatenate([compiled.areas(*masks.bytes_of(part)) for part in parts])
    return np.concatenate([_areas(_sizes(masks, part), masks.texts(part)) for part in parts])


def _encode(ground_truth: GroundTruthColumns, objects: np.ndarray) -> list[bytes]:
    """Return the compressed counts of the masks of U objects."""
    table, rows = ground_truth.table, ground_truth.rows[objects]
    polygons = table.polygon_offsets[rows]
    ends = table.coordinate_offsets[np.minimum(polygons + 1, len(table.coordinate_offsets) - 1)]
    begins = table.coordinate_offsets[np.minimum(polygons, len(table.coordinate_offsets) - 1)]
    single = table.polygon_offsets[rows + 1] - polygons == 1
    single &= ends - begins > _NUMBERS_OF_A_BOX
    texts = [b""] * len(objects)
    sizes = ground_truth.image_sizes[ground_truth.images[objects]]
    alone = np.flatnonzero(single)
    order = alone[np.lexsort(sizes[alone].T)]
    bounds = np.stack([begins, ends], axis=1).tolist()
    new_size = np.zeros(len(order), bool)
    if len(order):
        new_size[0] = True
        new_size[1:] = (np.diff(sizes[order], axis=0) != 0).any(axis=1)
    for begin, end in itertools.pairwise([*np.flatnonzero(new_size).tolist(), len(order)]):
        height, width = sizes[order[begin]].tolist()
        for start in range(begin, end, _MASKS_PER_CALL):
            some = order[start : min(start + _MASKS_PER_CALL, end)].tolist()
            drawn: Any = [table.coordinates[slice(*bounds[i])] for i in some]
            for i, rle in zip(some, mask_utils.frPyObjects(drawn, height, width), strict=True):
                texts[i] = rle["counts"]
    for i in np.flatnonzero(~single).tolist():
        counts = ground_truth.rle(int(objects[i]))["counts"]
        texts[i] = counts.encode() if isinstance(counts, str) else counts
    return texts
