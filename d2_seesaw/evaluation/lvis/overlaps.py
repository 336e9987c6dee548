"""Overlaps of detections with objects of the same pair, an image and a category.

Shapes in this module:
    D: detections that are scored
    G: objects
    E: edges: a detection and an object of its pair with an IoU of at least 0.5
    C: candidates for an edge in one block
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns
from d2_seesaw.evaluation.lvis.mask_overlaps import mask_ious
from d2_seesaw.evaluation.lvis.rules import IOU_THRESHOLDS
from d2_seesaw.evaluation.lvis.selection import ScoredDetections, boxes_of, masks_of
from d2_seesaw.evaluation.predictions.detections import Detections
from d2_seesaw.evaluation.predictions.ordering import stable_order, starts_of_runs
from d2_seesaw.utils.progress import Progress

_CANDIDATES_PER_BLOCK = 200_000


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
    keys = [ground_truth.images.astype(np.int64)]
    if class_agnostic:
        order = stable_order(ground_truth.categories, keys[0])
    else:
        keys[0] = keys[0] + ground_truth.categories * len(ground_truth.image_ids)
        order = stable_order(keys[0])
    first, number = _objects_of_pairs(keys[0][order], scored.pairs)
    found = [(np.zeros(0, int), np.zeros(0, int), np.zeros(0))]
    work = {"total": int(number.sum()), "unit": "overlap"}
    with Progress(f"comparing with the ground truth ({task})", **work) as progress:
        for block in _blocks(number):
            n = number[block]
            place = np.arange(n.sum()) + np.repeat(first[block] - (np.cumsum(n) - n), n)
            objects, rows = order[place], scored.rows[block]
            if task == "bbox":
                ious = _box_ious(ground_truth, boxes_of(detections)[rows], n, objects)
            else:
                own = rows, scored.areas[block]
                masks = masks_of(detections)
                ious = mask_ious(ground_truth, masks, *own, n, objects, least_iou)
            enough = np.flatnonzero(ious >= least_iou)
            found.append((np.repeat(block, n)[enough], place[enough], ious[enough]))
            progress.update(len(place))
    scored_places, object_places, ious = map(np.concatenate, zip(*found, strict=True))
    _sort_edges(scored_places, object_places, ious)
    return Edges(scored_places, order[object_places], ious)


def _objects_of_pairs(object_pairs: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(D,)`` the first object of the pair of each detection, and their number.

    Args:
        object_pairs: ``(G,)`` pairs of the objects, ascending.
        pairs: ``(D,)`` pairs of the detections, ascending.
    """
    starts = np.flatnonzero(starts_of_runs(pairs))
    repeats = np.diff(np.append(starts, len(pairs)))
    first = np.searchsorted(object_pairs, pairs[starts], side="left")
    number = np.searchsorted(object_pairs, pairs[starts], side="right") - first
    return np.repeat(first, repeats), np.repeat(number, repeats)


def _blocks(number: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the detections with objects, in blocks of so many candidates.

    Args:
        number: ``(D,)`` number of objects of the pair of each detection.
    """
    with_objects = np.flatnonzero(number)
    ends = np.cumsum(number[with_objects])
    start = 0
    while start < len(with_objects):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _CANDIDATES_PER_BLOCK)))
        yield with_objects[start:stop]
        start = stop


def _sort_edges(detections: np.ndarray, objects: np.ndarray, ious: np.ndarray) -> None:
    """Sort edges by detection, IoU and object; they are sorted by detection and object."""
    same = ~starts_of_runs(detections)
    several = same.copy()
    several[:-1] |= same[1:]
    rows = np.flatnonzero(several)
    order = rows[np.lexsort((objects[rows], ious[rows], detections[rows]))]
    objects[rows], ious[rows] = objects[order], ious[order]


def _box_ious(
    ground_truth: GroundTruthColumns,
    boxes: np.ndarray,
    number: np.ndarray,
    objects: np.ndarray,
) -> np.ndarray:
    """Return ``(C,)`` box IoUs that equal those of pycocotools bit for bit.

    Args:
        ground_truth: The annotations.
        boxes: Boxes of the detections of a block.
        number: Number of objects of each of them.
        objects: ``(C,)`` rows of these objects, detection by detection.
    """
    found = np.repeat(boxes.T.astype(float), number, axis=1)
    there = np.ascontiguousarray(ground_truth.boxes[objects].T)
    width, height = (
        np.minimum(found[i + 2] + found[i], there[i + 2] + there[i])
        - np.maximum(found[i], there[i])
        for i in (0, 1)
    )
    shared = np.where((width > 0) & (height > 0), width * height, 0)
    return shared / (found[2] * found[3] + there[2] * there[3] - shared)
