"""Mask IoUs of detections and objects, only where they matter.

numba compares pair by pair; without it, pycocotools compares many masks in a call.

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
    drawn, index = np.unique(objects, return_inverse=True)
    texts = _encode(ground_truth, drawn)
    sizes = ground_truth.image_sizes[ground_truth.images[drawn]].tolist()
    true_areas = _areas(sizes, texts)[index]
    own = np.repeat(areas, number)
    # Without pixels, neither mask has an IoU to lose.
    ratio = np.minimum(own, true_areas) / np.maximum(np.maximum(own, true_areas), 1)
    starts = np.cumsum(number) - number
    kept = np.flatnonzero(np.logical_or.reduceat(ratio >= least_iou, starts))
    ious = np.zeros(len(objects))
    if not len(kept):
        return ious
    n = number[kept]
    compiled = compiled_functions()
    if compiled is not None:
        places = index[_ranges(starts[kept], n)]
        there = texts, ground_truth.image_sizes[ground_truth.images[drawn]]
        ious[_ranges(starts[kept], n)] = _compiled_ious(
            compiled, masks, rows[kept], n, *there, places
        )
        return ious
    # Detections of one pair have the same first object.
    pairs = np.flatnonzero(starts_of_runs(objects[starts[kept]]))
    there = index[_ranges(starts[kept[pairs]], n[pairs])].tolist()
    sides = np.diff(pairs, append=len(kept)), n[pairs]
    calls = np.array(_pairs_of_calls(*(side.tolist() for side in sides)))
    ends = [np.concatenate([[0], np.cumsum(side)]) for side in sides]
    bounds = [end[np.append(calls, len(pairs))].tolist() for end in ends]
    found_texts, found_sizes = masks.texts(rows[kept]), _sizes(masks, rows[kept])
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
    row = np.arange(len(kept)) - np.array(bounds[0])[call]
    column = ends[1][pair] - np.array(bounds[1])[call]
    cells = _ranges(corner[call] + row * width[call] + column, n)
    ious[_ranges(starts[kept], n)] = np.concatenate(matrices)[cells]
    return ious


def _compiled_ious(
    compiled: ModuleType,
    masks: MaskColumns,
    rows: np.ndarray,
    number: np.ndarray,
    texts: list[bytes],
    sizes: np.ndarray,
    others: np.ndarray,
) -> np.ndarray:
    """Return the IoUs of rows of ``masks`` with ``number`` others each.

    Args:
        compiled: the compiled functions.
        masks: Masks of the detections.
        rows: Rows of the detections.
        number: Objects of each detection.
        texts: Compressed counts of the objects.
        sizes: Their heights and widths.
        others: Places in ``texts``, detection by detection.
    """
    counts, starts, ends = masks.bytes_of(rows)
    bounds = np.cumsum([0, *map(len, texts)])
    joined = np.frombuffer(b"".join(texts), np.uint8)
    own = counts, starts, ends, masks.sizes[rows], number
    return compiled.ious(*own, joined, bounds[:-1], bounds[1:], sizes, others)


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
