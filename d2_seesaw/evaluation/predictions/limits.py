"""Limits on the number of detections that are scored.

LVIS scores the best 300 detections of an image, over all categories, so categories compete for
places. AP-fixed instead scores the same number of detections of each category over the whole
dataset, without a limit per image (Dave et al. 2021, "Evaluating Large-Vocabulary Object Detectors:
The Devil is in the Details", https://arxiv.org/abs/2102.01066).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from d2_seesaw.evaluation.predictions.detections import Detections
from d2_seesaw.evaluation.predictions.ordering import rank_in_runs

FIXED_AP_DETECTIONS = 10_000
"""Number of detections of a category, over all images, that AP-fixed scores."""

_LONGEST_TABLE = 4  # counts for each id


@dataclass(frozen=True)
class DetectionLimits:
    """Limits on the number of detections; those with the highest scores are kept.

    Of equal scores the earlier ones are kept. Limits are applied before anything else, so a
    detection takes a place even if it is not scored in the end.

    Attributes:
        per_image: Limit per image over all categories, or None.
        per_category: Limit per category over all images, or None.
    """

    per_image: int | None = 300
    per_category: int | None = None

    @classmethod
    def of_fixed_ap(cls) -> DetectionLimits:
        """Return the limits of AP-fixed."""
        return cls(per_image=None, per_category=FIXED_AP_DETECTIONS)

    def rows(self, detections: Detections, task: str) -> np.ndarray:
        """Return the rows of the detections to score in ``task``, ascending."""
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
        """Return the rows of the detections to score in "bbox" or in "segm", ascending."""
        rows = self.rows(detections, "bbox")
        if detections.mask_scores is None:
            return rows
        return np.union1d(rows, self.rows(detections, "segm"))


def _is_among_best(ids: np.ndarray, scores: np.ndarray, limit: int) -> np.ndarray:
    """Return for each row whether its score is among the ``limit`` highest ones of its id."""
    owner, sizes = _owners(ids)
    kept = np.ones(len(ids), dtype=bool)
    if sizes.max(initial=0) <= limit:
        return kept
    rows = np.flatnonzero(sizes[owner] > limit)
    if len(rows):
        best_first = rows[np.lexsort((-scores[rows], owner[rows]))]
        kept[best_first] = rank_in_runs(owner[best_first]) < limit
    return kept


def _owners(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a number for each row, in the order of the ids, and how often each number occurs."""
    if ids.dtype.kind == "i" and len(ids):
        first, last = int(ids.min()), int(ids.max())
        if last - first <= _LONGEST_TABLE * len(ids):  # a sort needs several times the memory
            owner = ids - first
            return owner, np.bincount(owner)
    _, owner, sizes = np.unique(ids, return_inverse=True, return_counts=True)
    return owner, sizes
