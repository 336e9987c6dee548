"""Kinds of errors: which detections are wrong and why, and which objects are missed.

The kinds follow the rules of LVIS at IoU 0.5, for objects of any size, and the confusions of
:mod:`d2_seesaw.evaluation.analysis.confusion`. A detection that LVIS does not count is "not
judged", and is never an error: its category was not verified in the image, or it matches nothing
although its category was not annotated exhaustively, or it matches an object that the file says to
ignore, or it is beyond the limit of detections. The names of the errors are those of TIDE (Bolya et
al. 2020, https://arxiv.org/abs/2008.08115), with its bound of 0.1 between localization and
background.

Scores only rank. Without the detections below some score, the kinds of all others are the same, and
an object is missed if the detection that labels it is gone.

Shapes in this module:
    N: detections
    A: annotations
    D: detections that LVIS scores
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from d2_seesaw.evaluation.analysis.calibration import detection_outcomes
from d2_seesaw.evaluation.analysis.confusion import Assignment, ObjectLabels
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns
from d2_seesaw.evaluation.lvis.metrics import match_detections
from d2_seesaw.evaluation.lvis.overlaps import overlaps
from d2_seesaw.evaluation.lvis.selection import ScoredDetections
from d2_seesaw.evaluation.predictions.detections import Detections
from d2_seesaw.evaluation.predictions.limits import DetectionLimits

RIGHT, CONFUSED, MISSED = "right", "confused", "missed"
DUPLICATE, LOCALIZATION, BACKGROUND = "duplicate", "localization", "background"
NOT_JUDGED = "not judged"

KINDS = (RIGHT, CONFUSED, MISSED, DUPLICATE, LOCALIZATION, BACKGROUND, NOT_JUDGED)
ERRORS = (CONFUSED, MISSED, DUPLICATE, LOCALIZATION, BACKGROUND)

LEAST_IOU = 0.1
"""IoU with an object of its category from which on a detection is badly localized."""


@dataclass(frozen=True)
class ErrorKinds:
    """Kind of each detection and of each annotated object.

    A detection is

    - "right": it matches an object of its category by the rules of LVIS;
    - "duplicate": it overlaps an object of its category (IoU >= 0.5), which detections with higher
      scores have matched;
    - "confused": it belongs to an object of another category, see ``Assignment``;
    - "localization": it belongs to an object of its own category by its box but not by its mask, or
      overlaps one with an IoU of 0.1 to 0.5;
    - "background": it counts as wrong, and is none of these;
    - "not judged": LVIS does not count it.

    An object is "right" if the highest-scoring detection that belongs to it has its category,
    "confused" if it has another one, "missed" if there is none, and "not judged" if it does not
    count. As in the confusion matrix, a category that was not verified in the image labels objects,
    too, so a confused object may have a detection that is not judged.

    Attributes:
        detections: ``(N,)`` kinds of the detections.
        confused_with: ``(N,)`` annotation that a confused detection belongs to, -1 for others.
        objects: ``(A,)`` kinds of the objects.
        labels: ``(A,)`` row of the detection that labels an object, -1 without one.
    """

    detections: np.ndarray
    confused_with: np.ndarray
    objects: np.ndarray
    labels: np.ndarray


def error_kinds(
    ground_truth: GroundTruthColumns,
    detections: Detections,
    task: str,
    *,
    limits: DetectionLimits,
) -> ErrorKinds:
    """Find the kinds of all detections and objects.

    Args:
        ground_truth: The annotations of ``task``, federated sets included.
        detections: Detections in its images, with boxes or masks for ``task``.
        task: "bbox" or "segm".
        limits: Detections that LVIS scores.

    Raises:
        ValueError: as ``match_detections``.
    """
    assignment = Assignment.of_detections(ground_truth, detections, task, limits=limits)
    kinds = np.full(len(detections), NOT_JUDGED, dtype=_text())
    confused_with = np.full(len(detections), -1)
    matched = match_detections(ground_truth, detections, task, limits=limits)
    if task == "segm":
        assignment = assignment.with_right_masks(detections, matched)
    belongs = np.full(len(detections), -1)
    belongs[assignment.rows] = assignment.objects
    scored = matched.scored
    right, counted = detection_outcomes(matched)
    duplicate = np.zeros(len(right), bool)
    duplicate[matched.matches.detections] = True  # an edge that led to no match
    target = belongs[scored.rows]
    same = (
        ground_truth.categories[target] == matched.categories
        if len(ground_truth.rows)
        else target >= 0
    )
    of_other, of_own = (target >= 0) & ~same, (target >= 0) & same
    wrong = counted & ~right
    own = np.full(len(right), BACKGROUND, dtype=_text())
    own[of_own | _overlaps_own(ground_truth, detections, scored, task, wrong)] = LOCALIZATION
    own[of_other] = CONFUSED
    own[duplicate] = DUPLICATE
    own[right] = RIGHT
    kinds[scored.rows[counted]] = own[counted]
    confused = wrong & (own == CONFUSED)
    confused_with[scored.rows[confused]] = ground_truth.rows[target[confused]]
    of_objects, labels = _object_kinds(ground_truth, assignment.labels())
    return ErrorKinds(kinds, confused_with, of_objects, labels)


def _text() -> np.dtype:
    return np.array(KINDS).dtype


def _overlaps_own(
    ground_truth: GroundTruthColumns,
    detections: Detections,
    scored: ScoredDetections,
    task: str,
    chosen: np.ndarray,
) -> np.ndarray:
    """Return ``(D,)`` whether chosen detections overlap an object of their category a little."""
    places = np.flatnonzero(chosen)
    edges = overlaps(
        ground_truth,
        detections,
        scored.take(places),
        task,
        class_agnostic=False,
        least_iou=LEAST_IOU,
    )
    found = np.zeros(len(chosen), bool)
    found[places[edges.detections]] = True
    return found


def _object_kinds(
    ground_truth: GroundTruthColumns, labels: ObjectLabels
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(A,)`` kinds of all annotations, and rows of their labels."""
    own = np.where(labels.categories == ground_truth.categories, RIGHT, CONFUSED)
    own = np.where(labels.rows < 0, MISSED, own)
    kinds = np.full(len(ground_truth.table.image), NOT_JUDGED, dtype=_text())
    rows = np.full(len(kinds), -1)
    counts = labels.counts
    kinds[ground_truth.rows[counts]] = own[counts]
    rows[ground_truth.rows[counts]] = labels.rows[counts]
    return kinds, rows
