"""Whether scores mean what they say: the precision of detections by their score.

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
"""Those of Guo et al. 2017, https://arxiv.org/abs/1706.04599."""

logger = logging.getLogger(__name__)


def reliability_by_group(
    ground_truth: GroundTruthColumns, matched: MatchedDetections
) -> list[ReliabilityCurve]:
    """Calibration of all detections, then of those of the groups "r", "c" and "f".

    Counted is what LVIS counts at IoU 0.5, of any size: a detection is right if it takes an object,
    and neither right nor wrong if it takes an ignored one, or none where the category was not
    annotated exhaustively. Detections of categories that nobody looked for are not there at all.
    Scores that are not all in [0, 1] are no probabilities: all bins are then empty, and every error
    is ``nan``.

    Args:
        ground_truth: The annotations.
        matched: Detections of it, their categories told apart.
    """
    right, counted = _outcomes(matched)
    scores, categories = matched.scored.scores[counted], matched.categories[counted]
    right = right[counted]
    if not ((scores >= 0) & (scores <= 1)).all():
        logger.warning(
            f"Scores from {scores.min():g} to {scores.max():g} are no probabilities, "
            "so there is no calibration"
        )
        scores, right, categories = scores[:0], right[:0], categories[:0]
    groups = {"all": np.ones(len(scores), dtype=bool)}
    groups |= {group: np.isin(categories, rows) for group, rows in ground_truth.groups.items()}
    return [_reliability_curve(group, scores[rows], right[rows]) for group, rows in groups.items()]


def _outcomes(matched: MatchedDetections) -> tuple[np.ndarray, np.ndarray]:
    """``(D,)`` whether each detection is right, and whether it counts, at IoU 0.5."""
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
