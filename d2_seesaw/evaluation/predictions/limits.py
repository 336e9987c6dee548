"""Which detections count at all, by their number.

LVIS counts the best 300 of an image, over all categories. That makes a model's result depend on how
its categories compete for places: AP-fixed gives each category the same number over the whole data
set and no limit per image (Dave et al. 2021, "Evaluating Large-Vocabulary Object Detectors: The
Devil is in the Details", https://arxiv.org/abs/2102.01066).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from d2_seesaw.evaluation.predictions.detections import Detections

FIXED_AP_DETECTIONS = 10_000
"""Detections of a category over all images that AP-fixed counts."""


@dataclass(frozen=True)
class DetectionLimits:
    """The most detections that count; of too many, those with the highest scores.

    Of equal scores the earlier ones stay. A limit is applied before anything else, so a detection
    that is not scored in the end takes a place too.

    Attributes:
        per_image: over all categories, or None.
        per_category: over all images, or None.
    """

    per_image: int | None = 300
    per_category: int | None = None

    @classmethod
    def of_fixed_ap(cls) -> DetectionLimits:
        """Those of AP-fixed."""
        return cls(per_image=None, per_category=FIXED_AP_DETECTIONS)

    def rows(self, detections: Detections, task: str) -> np.ndarray:
        """Rows of the detections that count in ``task``, ascending."""
        kept = np.ones(len(detections), dtype=bool)
        scores = detections.scores_of(task)
        for ids, limit in (
            (detections.image_ids, self.per_image),
            (detections.category_ids, self.per_category),
        ):
            if limit is not None:
                kept &= _is_among_best(ids, scores, limit)
        return np.flatnonzero(kept)

    def rows_of_any_task(self, detections: Detections) -> np.ndarray:
        """Rows of the detections that count by the score of the box or of the mask, ascending."""
        rows = self.rows(detections, "bbox")
        if detections.mask_scores is None:
            return rows
        return np.union1d(rows, self.rows(detections, "segm"))


def _is_among_best(ids: np.ndarray, scores: np.ndarray, limit: int) -> np.ndarray:
    """Whether each is among the ``limit`` highest scores of those with its id."""
    _, owner, sizes = np.unique(ids, return_inverse=True, return_counts=True)
    kept = np.ones(len(ids), dtype=bool)
    rows = np.flatnonzero(sizes[owner] > limit)
    if len(rows):
        best_first = rows[np.lexsort((-scores[rows], owner[rows]))]
        kept[best_first] = rank_in_runs(owner[best_first]) < limit
    return kept


def rank_in_runs(values: np.ndarray) -> np.ndarray:
    """0, 1, 2, ... within each run of equal neighbours: ``[7, 7, 4] -> [0, 1, 0]``."""
    positions = np.arange(len(values))
    is_first = np.ones(len(values), dtype=bool)
    is_first[1:] = values[1:] != values[:-1]
    return positions - np.maximum.accumulate(np.where(is_first, positions, 0))
