"""LVIS metrics from arrays: what ``lvis`` 0.5.3 computes, without its loop over empty pairs.

The curves equal those of ``lvis`` bit for bit, with one difference on purpose. ``lvis`` stores the
id of the matched object and reads 0 as "no match", so there a correct detection of annotation 0 is
wrong. Here it is correct.

Shapes in this module:
    D: detections that are scored
    T: IoU thresholds
    R: recall thresholds
    K: categories, 1 if they are not told apart
    A: area ranges
"""

from __future__ import annotations

import numpy as np

from d2_seesaw.evaluation.detection_columns import DetectionColumns
from d2_seesaw.evaluation.detection_limits import DetectionLimits
from d2_seesaw.evaluation.ground_truth_columns import GroundTruthColumns
from d2_seesaw.evaluation.lvis_scores import (
    AREA_RANGES,
    IOU_THRESHOLDS,
    RECALL_THRESHOLDS,
    LVISScores,
    scores_of_curves,
)
from d2_seesaw.evaluation.pair_overlaps import ScoredDetections, overlaps, scored_detections
from d2_seesaw.evaluation.sparse_matching import Matches, match


def evaluate_sparse(
    ground_truth: GroundTruthColumns,
    detections: DetectionColumns,
    task: str,
    *,
    limits: DetectionLimits,
    class_agnostic: bool = False,
) -> LVISScores:
    """Score ``detections`` by LVIS's rules.

    Args:
        ground_truth: The annotations, federated sets included.
        detections: With the category ids of ``ground_truth``; those of others are not scored. None
            at all are legal: what has ground truth scores 0.
        task: "bbox" or "segm".
        limits: Detections that count.
        class_agnostic: Whether a detection may match an object of any category.

    Raises:
        ValueError: a detection is of an image that the ground truth lacks, or without what the task
            needs.
    """
    precision, recall = precision_and_recall(
        ground_truth, detections, task, limits=limits, class_agnostic=class_agnostic
    )
    if class_agnostic:
        return scores_of_curves(precision, recall, [], {})
    ids = ground_truth.category_ids.tolist()
    return scores_of_curves(precision, recall, ids, ground_truth.groups)


def precision_and_recall(
    ground_truth: GroundTruthColumns,
    detections: DetectionColumns,
    task: str,
    *,
    limits: DetectionLimits,
    class_agnostic: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """``(T, R, K, A)`` precision and ``(T, K, A)`` recall, -1 without ground truth.

    The arguments are those of ``evaluate_sparse``.
    """
    scored = scored_detections(
        ground_truth, detections, task, limits=limits, class_agnostic=class_agnostic
    )
    edges = overlaps(ground_truth, detections, scored, task, class_agnostic=class_agnostic)
    ignored = ground_truth.ignored[:, None] | _is_outside(ground_truth.areas)
    matches = match(edges, scored.pairs, ignored)
    one_category = len(ground_truth.image_ids)
    K = 1 if class_agnostic else len(ground_truth.category_ids)
    categories = np.zeros(len(ignored), int) if class_agnostic else ground_truth.categories
    objects = np.zeros((K, len(AREA_RANGES)), dtype=np.int64)
    np.add.at(objects, categories, ~ignored)
    return _accumulate(scored, scored.pairs // one_category, matches, objects)


def _is_outside(areas: np.ndarray) -> np.ndarray:
    """``(N, A)`` whether each of N areas is outside of the ranges."""
    return (areas[:, None] < AREA_RANGES[:, 0]) | (areas[:, None] > AREA_RANGES[:, 1])


def _accumulate(
    scored: ScoredDetections, categories: np.ndarray, matches: Matches, objects: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The curves of every category with ``objects``, ``(K, A)`` numbers of those that count."""
    (K, A), T = objects.shape, len(IOU_THRESHOLDS)
    precision = np.full((T, len(RECALL_THRESHOLDS), K, A), -1.0)
    recall = np.full((T, K, A), -1.0)
    # A detection without a match is wrong, except where nobody knows or its size is asked for.
    never_wrong = scored.in_open_pair[:, None] | _is_outside(scored.areas)
    bounds = np.searchsorted(categories, np.arange(K + 1))
    match_bounds = np.searchsorted(matches.detections, bounds)
    for k in np.flatnonzero(objects.any(axis=1)):
        here = slice(bounds[k], bounds[k + 1])
        # Stable: of equal scores the earlier image is first.
        order = np.argsort(-scored.scores[here], kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        matched = slice(match_bounds[k], match_bounds[k + 1])
        columns = place[matches.detections[matched] - bounds[k]]
        for a in np.flatnonzero(objects[k]):
            right = np.zeros((T, len(order)), dtype=bool)
            right[:, columns] = matches.found[matched, :, a].T
            wrong = np.repeat(~never_wrong[here, a][order][None], T, axis=0)
            wrong[:, columns] &= ~(right[:, columns] | matches.ignored[matched, :, a].T)
            curve, recall[:, k, a] = _curves(right, wrong, int(objects[k, a]))
            precision[:, :, k, a] = curve
    return precision, recall


def _curves(right: np.ndarray, wrong: np.ndarray, objects: int) -> tuple[np.ndarray, np.ndarray]:
    """``(T, R)`` precision and ``(T,)`` recall of ``(T, D)`` detections, highest score first."""
    counted = (right | wrong).any(axis=0)
    right, wrong = right[:, counted], wrong[:, counted]
    precision = np.zeros((len(right), len(RECALL_THRESHOLDS)))
    if not right.shape[1]:
        return precision, np.zeros(len(right))
    num_right = np.cumsum(right, axis=1, dtype=float)
    num_wrong = np.cumsum(wrong, axis=1, dtype=float)
    recall = num_right / objects
    at_rank = num_right / (num_wrong + num_right + np.spacing(1))
    best_from_rank = np.maximum.accumulate(at_rank[:, ::-1], axis=1)[:, ::-1]
    for t, row in enumerate(recall):
        ranks = np.searchsorted(row, RECALL_THRESHOLDS, side="left")
        reached = ranks < len(row)
        precision[t, reached] = best_from_rank[t, ranks[reached]]
    return precision, recall[:, -1]
