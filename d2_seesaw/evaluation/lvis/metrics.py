"""LVIS metrics of arrays: the metrics of ``lvis`` 0.5.3, without its loop over empty pairs.

The curves equal those of ``lvis`` bit for bit, with one intended difference. ``lvis`` stores the id
of the matched object and reads 0 as "no match", so it counts a correct detection of annotation 0 as
wrong. Here it is correct.

Shapes in this module:
    D: detections that are scored
    T: IoU thresholds
    R: recall thresholds
    K: categories, in order of their id; 1 if they are not distinguished
    A: area ranges
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from d2_seesaw.evaluation.lvis.curves import curves
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns
from d2_seesaw.evaluation.lvis.matching import Matches, match
from d2_seesaw.evaluation.lvis.overlaps import overlaps
from d2_seesaw.evaluation.lvis.rules import AREA_RANGES, IOU_THRESHOLDS, METRICS
from d2_seesaw.evaluation.lvis.selection import ScoredDetections, scored_detections
from d2_seesaw.evaluation.predictions.detections import Detections
from d2_seesaw.evaluation.predictions.limits import DetectionLimits


@dataclass(frozen=True)
class LVISScores:
    """Scores of one evaluation, in percent; ``nan`` without ground truth.

    Attributes:
        metrics: One value for each of ``METRICS``.
        category_ids: K category ids, ascending; empty if categories are not distinguished.
        category_ap: ``(K,)`` AP of each category.
        category_ap50: ``(K,)`` AP at IoU 0.5 of each category.
        category_ar: ``(K,)`` recall of each category, averaged over the IoU thresholds.
    """

    metrics: dict[str, float]
    category_ids: list[int]
    category_ap: np.ndarray
    category_ap50: np.ndarray
    category_ar: np.ndarray


def scores_of_curves(
    precision: np.ndarray,
    recall: np.ndarray,
    category_ids: Sequence[int],
    groups: Mapping[str, np.ndarray],
) -> LVISScores:
    """Average the curves.

    Args:
        precision: ``(T, R, K, A)``, in [0, 1]; -1 without ground truth.
        recall: ``(T, K, A)``, likewise.
        category_ids: K ids; empty if all categories were scored as one, so that K = 1.
        groups: Indices of the categories of each frequency group "r", "c" and "f".
    """
    every_area = precision[..., 0]
    metrics = {
        "AP": _percent(every_area),
        "AP50": _percent(every_area[_at(0.5)]),
        "AP75": _percent(every_area[_at(0.75)]),
        **{f"AP{s}": _percent(precision[..., a]) for a, s in enumerate("sml", start=1)},
        **{f"AP{g}": _percent(every_area, i) for g, i in groups.items()},
        "AR": _percent(recall[..., 0]),
        **{f"AR{s}": _percent(recall[..., a]) for a, s in enumerate("sml", start=1)},
        **{f"AR{g}": _percent(recall[..., 0], i) for g, i in groups.items()},
    }
    category_precision = every_area[..., : len(category_ids)]
    return LVISScores(
        metrics={m: metrics.get(m, math.nan) for m in METRICS},
        category_ids=list(category_ids),
        category_ap=_by_category(category_precision),
        category_ap50=_by_category(category_precision[_at(0.5)]),
        category_ar=_by_category(recall[:, None, : len(category_ids), 0]),
    )


def _at(threshold: float) -> np.ndarray:
    return np.isclose(IOU_THRESHOLDS, threshold)


def _percent(values: np.ndarray, categories: np.ndarray | None = None) -> float:
    """Return the mean in percent over the categories, the last axis, that have ground truth."""
    first = values[(0,) * (values.ndim - 1)]  # the whole curve of a category is -1, or nothing
    chosen = np.flatnonzero(first > -1)
    if categories is not None:
        chosen = np.intersect1d(chosen, categories)
    present = np.take(values, chosen, axis=-1)
    return 100 * float(present.reshape(-1).mean()) if present.size else math.nan


def _by_category(curves: np.ndarray) -> np.ndarray:
    """Return the ``(K,)`` means in percent of ``(T, R, K)`` curves; ``nan`` where they are -1."""
    return np.where(curves[0, 0] < 0, np.nan, 100 * curves.mean(axis=(0, 1)))


@dataclass(frozen=True)
class MatchedDetections:
    """Scored detections and their matches.

    Attributes:
        scored: Rows, pairs, scores and areas of the detections.
        categories: ``(D,)`` category indices, ascending; all 0 if categories are not distinguished.
        matches: Matches of the detections that overlap an object.
        never_wrong: ``(D, A)`` whether a detection without a match is not counted as wrong, because
            its category is not annotated exhaustively or its area is outside the range.
        objects: ``(K, A)`` numbers of objects that count.
    """

    scored: ScoredDetections
    categories: np.ndarray
    matches: Matches
    never_wrong: np.ndarray
    objects: np.ndarray


def match_detections(
    ground_truth: GroundTruthColumns,
    detections: Detections,
    task: str,
    *,
    limits: DetectionLimits,
    class_agnostic: bool = False,
) -> MatchedDetections:
    """Match detections with objects by LVIS's rules.

    Args:
        ground_truth: The annotations, federated sets included.
        detections: Detections with the category ids of ``ground_truth``; other categories are not
            scored. May be empty: categories with ground truth then score 0.
        task: "bbox" or "segm".
        limits: Limits on the number of detections.
        class_agnostic: Whether a detection may match an object of any category.

    Raises:
        ValueError: the annotations do not list the image of a detection, or the detections have no
            boxes or masks for the task.
    """
    scored = scored_detections(
        ground_truth, detections, task, limits=limits, class_agnostic=class_agnostic
    )
    edges = overlaps(ground_truth, detections, scored, task, class_agnostic=class_agnostic)
    ignored = ignored_objects(ground_truth)
    K = 1 if class_agnostic else len(ground_truth.category_ids)
    categories = np.zeros(len(ignored), int) if class_agnostic else ground_truth.categories
    objects = np.zeros((K, len(AREA_RANGES)), dtype=np.int64)
    np.add.at(objects, categories, ~ignored)
    return MatchedDetections(
        scored=scored,
        categories=scored.pairs // len(ground_truth.image_ids),
        matches=match(edges, scored.pairs, ignored),
        never_wrong=scored.in_open_pair[:, None] | _is_outside(scored.areas),
        objects=objects,
    )


def ignored_objects(ground_truth: GroundTruthColumns) -> np.ndarray:
    """Return ``(G, A)`` whether each of the G objects does not count for an area range."""
    return ground_truth.ignored[:, None] | _is_outside(ground_truth.areas)


def scores_of_matches(
    ground_truth: GroundTruthColumns, matched: MatchedDetections, *, class_agnostic: bool = False
) -> LVISScores:
    """Compute the scores of matched detections, with the same ``class_agnostic``."""
    ids = [] if class_agnostic else ground_truth.category_ids.tolist()
    groups = {} if class_agnostic else ground_truth.groups
    return scores_of_curves(*precision_and_recall(matched), ids, groups)


def _is_outside(areas: np.ndarray) -> np.ndarray:
    """Return ``(N, A)`` whether each of N areas is outside of the ranges."""
    return (areas[:, None] < AREA_RANGES[:, 0]) | (areas[:, None] > AREA_RANGES[:, 1])


def precision_and_recall(matched: MatchedDetections) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(T, R, K, A)`` precision and ``(T, K, A)`` recall, -1 without ground truth."""
    scores = matched.scored.scores  # by image, as equal scores of a category are ranked
    return curves(scores, matched.categories, matched.matches, matched.never_wrong, matched.objects)
