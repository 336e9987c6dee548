"""Calibration of detection scores: precision as a function of the score.

Shapes in this module:
    D: detections that are scored
    B: bins
"""

from __future__ import annotations

import logging
import math

import numpy as np

from d2_seesaw.evaluation.analysis import ReliabilityCurve
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns
from d2_seesaw.evaluation.lvis.metrics import MatchedDetections

CALIBRATION_BINS = 15
"""Number of bins in Guo et al. 2017, https://arxiv.org/abs/1706.04599."""

logger = logging.getLogger(__name__)


def reliability_by_group(
    ground_truth: GroundTruthColumns, matched: MatchedDetections
) -> list[ReliabilityCurve]:
    """Compute the curves of all detections and of the groups "r", "c" and "f".

    The rules are those of LVIS at IoU 0.5, for objects of any size. A detection is correct if it
    matches an object. It does not count if it matches an ignored object, or no object although its
    category was not annotated exhaustively. Detections of categories that were not verified in the
    image are not included. If some score is not in [0, 1], all bins are empty and every error is
    ``nan``.

    Args:
        ground_truth: The annotations.
        matched: Their detections, matched within categories.
    """
    right, counted = detection_outcomes(matched)
    scores, categories = matched.scored.scores[counted], matched.categories[counted]
    right = right[counted]
    if not ((scores >= 0) & (scores <= 1)).all():
        logger.warning(
            f"Scores from {scores.min():g} to {scores.max():g} are not probabilities, "
            "so there is no calibration"
        )
        scores, right, categories = scores[:0], right[:0], categories[:0]
    groups = {"all": np.ones(len(scores), dtype=bool)}
    groups |= {group: np.isin(categories, rows) for group, rows in ground_truth.groups.items()}
    return [_reliability_curve(group, scores[rows], right[rows]) for group, rows in groups.items()]


def detection_outcomes(matched: MatchedDetections) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(D,)`` whether each detection is correct, and whether it counts, at IoU 0.5."""
    matches = matched.matches
    right = np.zeros(len(matched.scored.scores), dtype=bool)
    unknown = matched.never_wrong[:, 0].copy()
    right[matches.detections] = matches.found[:, 0, 0]
    unknown[matches.detections] |= matches.ignored[:, 0, 0]
    return right, right | ~unknown


def _reliability_curve(group: str, scores: np.ndarray, right: np.ndarray) -> ReliabilityCurve:
    inner_bounds = np.linspace(0, 1, CALIBRATION_BINS + 1)[1:-1]
    bins = np.searchsorted(inner_bounds, scores, side="left")
    number = np.bincount(bins, minlength=CALIBRATION_BINS)
    sum_of_scores = np.bincount(bins, weights=scores, minlength=CALIBRATION_BINS)
    number_right = np.bincount(bins, weights=right, minlength=CALIBRATION_BINS)
    distance = np.abs(number_right - sum_of_scores).sum()
    with np.errstate(invalid="ignore"):
        mean_score, precision = sum_of_scores / number, number_right / number
    return ReliabilityCurve(
        group=group,
        detections=number.tolist(),
        mean_score=mean_score.tolist(),
        precision=precision.tolist(),
        error=100 * float(distance) / len(scores) if len(scores) else math.nan,
    )
