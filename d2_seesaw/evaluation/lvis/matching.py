"""Selection of the detections that LVIS scores, their IoUs with objects, and greedy matching.

A pair is an image and a category. Only pairs with detections and objects are represented: of the 24
million pairs of LVIS v1's validation set, 99 % have neither.

The detections of a pair are matched in order of their scores, each with the best unmatched object.
Pairs are independent, so the first detections of all pairs are matched together, then the second
ones, and so on. The IoU thresholds and area ranges are axes of the arrays.

Shapes in this module:
    N: all detections
    D: detections that are scored; in the matching, detections with an edge
    G: objects
    E: edges: a detection and an object of its pair with an IoU of at least 0.5
    T: IoU thresholds
    A: area ranges
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns, index_of
from d2_seesaw.evaluation.lvis.rules import IOU_THRESHOLDS
from d2_seesaw.evaluation.predictions.detections import Detections
from d2_seesaw.evaluation.predictions.limits import DetectionLimits, rank_in_runs
from d2_seesaw.utils.progress import Progress

_MASKS_PER_CALL = 200  # pycocotools 2.0.11 with NumPy 2 overflows in ``area`` at 256
_CANDIDATES_PER_BLOCK = 200_000


@dataclass(frozen=True)
class ScoredDetections:
    """Detections that are scored, sorted by pair and then by descending score.

    Attributes:
        rows: ``(D,)`` rows in the ``Detections``.
        pairs: ``(D,)`` keys of the pairs, ascending; the image index if categories are ignored.
        scores: ``(D,)`` scores.
        areas: ``(D,)`` areas of the boxes or masks in pixels.
        in_open_pair: ``(D,)`` whether the category is not annotated exhaustively in the image.
    """

    rows: np.ndarray
    pairs: np.ndarray
    scores: np.ndarray
    areas: np.ndarray
    in_open_pair: np.ndarray


def scored_detections(
    ground_truth: GroundTruthColumns,
    detections: Detections,
    task: str,
    *,
    limits: DetectionLimits,
    class_agnostic: bool,
    verified_only: bool = True,
) -> ScoredDetections:
    """Keep the detections within the limits that have a positive area and a verified category.

    Args:
        ground_truth: The annotations.
        detections: Detections in images of the annotations.
        task: "bbox" or "segm".
        limits: Limits on the number of detections.
        class_agnostic: Whether all categories of an image are one pair.
        verified_only: Whether to drop detections of categories that were not verified in the image.
            Detections of categories that the annotations do not list are always dropped.

    Raises:
        ValueError: the annotations do not list the image of a detection.
    """
    rows = limits.rows(detections, task)
    images = index_of(detections.image_ids[rows], ground_truth.image_ids)
    if (images < 0).any():
        stranger = detections.image_ids[rows][images < 0][0].item()
        raise ValueError(
            f"Image id {stranger!r} of a detection is not in the annotations, whose ids start as "
            f"{ground_truth.image_ids[:3].tolist()}"
        )
    categories = index_of(detections.category_ids[rows], ground_truth.category_ids)
    pairs = categories * len(ground_truth.image_ids) + images
    counts = categories >= 0
    if verified_only:
        counts &= ground_truth.exhaustive[images] | np.isin(pairs, ground_truth.verified_pairs)
    counts = np.flatnonzero(counts)
    areas = _areas(detections, task, rows[counts])
    has_area = (areas > 0) & (areas < np.inf)
    counts, areas = counts[has_area], areas[has_area]

    rows, images, categories, pairs = (x[counts] for x in (rows, images, categories, pairs))
    scores = detections.scores_of(task)[rows]
    in_open_pair = np.isin(pairs, ground_truth.open_pairs)
    if class_agnostic:
        pairs = images
    # Stable, as in lvis: equal scores are sorted by category, then by position.
    order = np.lexsort((categories, -scores, pairs))
    return ScoredDetections(
        *(x[order] for x in (rows, pairs, scores, areas, in_open_pair)),
    )


def _areas(detections: Detections, task: str, rows: np.ndarray) -> np.ndarray:
    if not len(rows):
        return np.zeros(0)
    if task == "bbox":
        boxes = _boxes(detections, rows)
        return boxes[:, 2] * boxes[:, 3]
    from pycocotools import mask as mask_utils

    masks = detections.masks
    if masks is None:
        raise ValueError("Task 'segm' needs detections with masks, these have none")
    areas = np.zeros(len(rows))
    for start in range(0, len(rows), _MASKS_PER_CALL):
        block = slice(start, start + _MASKS_PER_CALL)
        rles: Any = masks.rles(rows[block])
        areas[block] = mask_utils.area(rles)
    return areas


def _boxes(detections: Detections, rows: np.ndarray) -> np.ndarray:
    if detections.boxes is None:
        raise ValueError("Task 'bbox' needs detections with boxes, these have none")
    return detections.boxes[rows].astype(float)


@dataclass(frozen=True)
class Edges:
    """Overlaps of detections and objects, sorted by detection, then IoU, then object.

    The last edge of a detection is its best one: of equal IoUs, the later object is preferred.

    Attributes:
        detections: ``(E,)`` indices of the scored detections.
        objects: ``(E,)`` rows of the ground truth.
        ious: ``(E,)`` IoUs, at least 0.5 unless another bound was asked for.
    """

    detections: np.ndarray
    objects: np.ndarray
    ious: np.ndarray


def overlaps(
    ground_truth: GroundTruthColumns,
    detections: Detections,
    scored: ScoredDetections,
    task: str,
    *,
    class_agnostic: bool,
    least_iou: float = IOU_THRESHOLDS[0],
) -> Edges:
    """Compute all edges with this IoU or more. Crowds are like other objects, as in ``lvis``."""
    pairs = ground_truth.images.astype(np.int64)
    if class_agnostic:
        order = np.lexsort((ground_truth.categories, pairs))
    else:
        pairs = pairs + ground_truth.categories * len(ground_truth.image_ids)
        order = np.argsort(pairs, kind="stable")
    pairs = pairs[order]
    first = np.searchsorted(pairs, scored.pairs, side="left")
    number = np.searchsorted(pairs, scored.pairs, side="right") - first
    compare = _box_ious if task == "bbox" else _mask_ious
    found = [(np.zeros(0, int), np.zeros(0, int), np.zeros(0))]
    work = {"total": int(number.sum()), "unit": "overlap"}
    with Progress(f"comparing with the ground truth ({task})", **work) as progress:
        for d, place in _candidates(first, number):
            iou = compare(ground_truth, detections, scored.rows[d], order[place])
            enough = iou >= least_iou
            found.append((d[enough], place[enough], iou[enough]))
            progress.update(len(d))
    scored_places, object_places, ious = map(np.concatenate, zip(*found, strict=True))
    best_last = np.lexsort((object_places, ious, scored_places))
    objects = order[object_places[best_last]]
    return Edges(scored_places[best_last], objects, ious[best_last])


def _candidates(first: np.ndarray, number: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield detections and objects of the same pair, in blocks that do not split a detection."""
    with_objects = np.flatnonzero(number)
    ends = np.cumsum(number[with_objects])
    start = 0
    while start < len(with_objects):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _CANDIDATES_PER_BLOCK)))
        block = with_objects[start:stop]
        n = number[block]
        offsets = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
        yield np.repeat(block, n), np.repeat(first[block], n) + offsets
        start = stop


def _box_ious(
    ground_truth: GroundTruthColumns,
    detections: Detections,
    rows: np.ndarray,
    objects: np.ndarray,
) -> np.ndarray:
    """Compute box IoUs that equal those of pycocotools bit for bit."""
    found, there = _boxes(detections, rows).T, ground_truth.boxes[objects].T
    width, height = (
        np.minimum(found[i + 2] + found[i], there[i + 2] + there[i])
        - np.maximum(found[i], there[i])
        for i in (0, 1)
    )
    shared = np.where((width > 0) & (height > 0), width * height, 0)
    return shared / (found[2] * found[3] + there[2] * there[3] - shared)


def _mask_ious(
    ground_truth: GroundTruthColumns,
    detections: Detections,
    rows: np.ndarray,
    objects: np.ndarray,
) -> np.ndarray:
    from pycocotools import mask as mask_utils

    masks = detections.masks
    if masks is None:
        raise ValueError("Task 'segm' needs detections with masks, these have none")
    ious = np.empty(len(rows))
    detection_starts = np.append(np.flatnonzero(rank_in_runs(rows) == 0), len(rows))
    # Detections of one pair have the same first object.
    pair_starts = np.flatnonzero(rank_in_runs(objects[detection_starts[:-1]]) == 0)
    for start, stop in zip(
        pair_starts, np.append(pair_starts[1:], len(detection_starts) - 1), strict=True
    ):
        begin, end = detection_starts[start], detection_starts[stop]
        there = objects[begin : detection_starts[start + 1]]
        found: Any = masks.rles(rows[detection_starts[start:stop]])
        true: Any = [ground_truth.rle(g) for g in there.tolist()]
        is_crowd = np.zeros(len(there), dtype=np.uint8)
        matrix: Any = mask_utils.iou(found, true, is_crowd)
        ious[begin:end] = matrix.reshape(-1)
    return ious


@dataclass(frozen=True)
class Matches:
    """Matches of the detections that have an edge. Other detections match nothing.

    Attributes:
        detections: ``(D,)`` indices of the scored detections, ascending.
        found: ``(D, T, A)`` whether a detection matches an object that counts.
        ignored: ``(D, T, A)`` whether a detection matches an object that does not count.
    """

    detections: np.ndarray
    found: np.ndarray
    ignored: np.ndarray


def match(edges: Edges, pairs: np.ndarray, ignored: np.ndarray) -> Matches:
    """Match detections with objects greedily.

    Objects that count are preferred to objects that do not, then higher IoUs, then later objects.

    Args:
        edges: Edges of the scored detections.
        pairs: Keys of the pairs of all scored detections. The detections of a pair are consecutive
            and sorted by descending score.
        ignored: ``(G, A)`` whether an object does not count for an area range.
    """
    first = np.flatnonzero(rank_in_runs(edges.detections) == 0)
    detections = edges.detections[first]
    rank_of_detection = rank_in_runs(pairs[detections])
    number_of_edges = np.diff(np.append(first, len(edges.detections)))
    D, (G, A), T = len(detections), ignored.shape, len(IOU_THRESHOLDS)
    matches = Matches(detections, np.zeros((D, T, A), bool), np.zeros((D, T, A), bool))
    taken = np.zeros((G, T, A), dtype=bool)

    # Sorted by rank, so that the edges of detections that are matched together are a slice.
    by_rank = np.argsort(rank_of_detection, kind="stable")
    edge_order = np.argsort(np.repeat(rank_of_detection, number_of_edges), kind="stable")
    numbers = number_of_edges[by_rank]
    first_edge = np.cumsum(numbers) - numbers
    ranks = np.arange(rank_of_detection.max(initial=-1) + 2)
    bounds = np.searchsorted(rank_of_detection[by_rank], ranks)
    for start, stop in itertools.pairwise(bounds.tolist()):
        begin = first_edge[start]
        step = edge_order[begin : begin + numbers[start:stop].sum()]
        objects = edges.objects[step]
        is_found, is_ignored, object_taken = _choose(
            edges.ious[step], taken[objects], ignored[objects], first_edge[start:stop] - begin
        )
        chosen = by_rank[start:stop]
        matches.found[chosen], matches.ignored[chosen] = is_found, is_ignored
        d, t, a = np.nonzero(is_found | is_ignored)
        taken[objects[object_taken[d, t, a]], t, a] = True
    return matches


def _choose(
    ious: np.ndarray, taken: np.ndarray, ignored: np.ndarray, first_edge: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choose an edge for each of D detections of different pairs, which have ``E`` edges.

    Returns:
        Three ``(D, T, A)`` arrays: whether an object that counts was chosen, whether an object that
        does not count was chosen, and the edge of the object, undefined if none was chosen.
    """
    E = len(ious)
    possible = (ious[:, None] >= IOU_THRESHOLDS)[..., None] & ~taken
    # The best edge of a detection is its last one, unless an earlier one counts and it does not.
    value = (np.arange(1, E + 1)[:, None] + E * ~ignored).astype(np.int32)[:, None]
    best = np.maximum.reduceat(np.where(possible, value, np.int32(0)), first_edge, axis=0)
    return best > E, (best > 0) & (best <= E), (best - 1) % E
