"""Precision and recall of matched detections, equal to those of ``lvis`` bit for bit.

A precision curve falls with each wrong detection and rises with each correct one, and the metric
takes the best precision at a recall or beyond. So it can only be attained at a correct detection,
and only these are looked at. How many wrong ones precede each follows from a running count of all
detections that could be wrong, less those that match.

Shapes in this module:
    D: detections that are scored
    M: detections with a match at some threshold and area range
    P: correct detections at one threshold and area range
    T: IoU thresholds
    R: recall thresholds
    K: categories
    A: area ranges
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from d2_seesaw.evaluation.lvis.matching import Matches, bit_of
from d2_seesaw.evaluation.lvis.rules import IOU_THRESHOLDS, RECALL_THRESHOLDS
from d2_seesaw.evaluation.predictions.ordering import descending_keys, stable_order


def curves(
    scores: np.ndarray,
    categories: np.ndarray,
    matches: Matches,
    never_wrong: np.ndarray,
    objects: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Compute precision and recall.

    Args:
        scores: ``(D,)`` scores. Of equal scores in a category, the earlier one ranks higher.
        categories: ``(D,)`` category indices, ascending.
        matches: Matches of some of the detections.
        never_wrong: ``(D, A)`` whether a detection without a match is not counted as wrong.
        objects: ``(K, A)`` numbers of objects that count.

    Returns:
        ``(T, R, K, A)`` precision and ``(T, K, A)`` recall, -1 without objects.
    """
    (K, A), T, R = objects.shape, len(IOU_THRESHOLDS), len(RECALL_THRESHOLDS)
    order = stable_order(descending_keys(scores), categories)
    ranked = _RankedMatches.of(order, categories, matches, K)
    precision = np.zeros((A, T, R, K))
    recall = np.zeros((A, T, K))
    for a in range(A):
        could_be_wrong = ~never_wrong[:, a][order]
        before = ranked.could_be_wrong_before(could_be_wrong)
        excusable = could_be_wrong[ranked.places]
        bins = _RecallBins.of(objects[:, a])
        for t in range(T):
            found, of_category, wrong = ranked.correct(bit_of(t, a, A), before, excusable)
            number = np.bincount(of_category, minlength=K)
            recall[a, t] = number / np.maximum(objects[:, a], 1)
            right = np.arange(1, len(found) + 1) - (np.cumsum(number) - number)[of_category]
            at_rank = right / (wrong + right + np.spacing(1))
            places = bins.of_ranks(right, of_category) * K + of_category
            np.maximum.at(precision[a, t].reshape(-1), places, at_rank)
    for r in range(R - 2, -1, -1):
        np.maximum(precision[:, :, r], precision[:, :, r + 1], out=precision[:, :, r])
    for a in range(A):
        absent = objects[:, a] == 0
        precision[a][..., absent] = recall[a][..., absent] = -1.0
    return precision.transpose(1, 2, 3, 0), recall.transpose(1, 2, 0)


@dataclass(frozen=True)
class _RankedMatches:
    """Detections with a match, by category and descending score.

    Attributes:
        places: ``(M,)`` places among all detections in this order, ascending.
        categories: ``(M,)`` category indices, ascending.
        found, hits: ``(M,)`` bits of :class:`Matches`; ``hits`` are those of any object.
        first_places, first_matches: ``(K,)`` place, and index here, of the first detection of each
            category.
    """

    places: np.ndarray
    categories: np.ndarray
    found: np.ndarray
    hits: np.ndarray
    first_places: np.ndarray
    first_matches: np.ndarray

    @classmethod
    def of(
        cls, order: np.ndarray, categories: np.ndarray, matches: Matches, num_categories: int
    ) -> _RankedMatches:
        """Select and rank them, given the ``(D,)`` order of all detections."""
        hits = matches.found_bits | matches.ignored_bits
        rows = np.flatnonzero(hits)
        # An index of all detections, because it avoids to sort those with a match again.
        row_of = np.full(len(order), -1, dtype=np.intp)
        row_of[matches.detections[rows]] = rows
        ranked = row_of[order]
        places = np.flatnonzero(ranked >= 0)
        rows = ranked[places]
        known = np.arange(num_categories)
        return cls(
            places=places,
            categories=categories[places],  # by category, whatever the order within
            found=matches.found_bits[rows],
            hits=hits[rows],
            first_places=np.searchsorted(categories, known),
            first_matches=np.searchsorted(categories[places], known),
        )

    def could_be_wrong_before(self, could_be_wrong: np.ndarray) -> np.ndarray:
        """Count, up to each match and within its category, the ``(D,)`` that could be wrong."""
        total = np.zeros(len(could_be_wrong) + 1, dtype=np.int64)
        np.cumsum(could_be_wrong, out=total[1:])
        return total[self.places + 1] - total[self.first_places][self.categories]

    def correct(
        self, bit: np.uint64, before: np.ndarray, excusable: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the correct detections of a threshold and an area range.

        Args:
            bit: Bit of the threshold and the area range.
            before: ``(M,)`` result of ``could_be_wrong_before``.
            excusable: ``(M,)`` whether the detection is counted there.

        Returns:
            ``(P,)`` indices here, categories, and numbers of wrong detections before them.
        """
        matched = (self.hits & bit) != 0
        found = np.flatnonzero(self.found & bit)
        excused = np.zeros(len(matched) + 1, dtype=np.int64)
        np.cumsum(matched & excusable, out=excused[1:])
        categories = self.categories[found]
        # A match, also with an ignored object, is not wrong.
        not_wrong = excused[found + 1] - excused[self.first_matches][categories]
        return found, categories, before[found] - not_wrong


@dataclass(frozen=True)
class _RecallBins:
    """Highest recall threshold that each number of correct detections reaches.

    Attributes:
        bins: Indices of the thresholds of 1, 2, ... correct detections, category by category.
        starts: ``(K,)`` start of each category in ``bins``.
    """

    bins: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, objects: np.ndarray) -> _RecallBins:
        """Compute them from the ``(K,)`` numbers of objects."""
        starts = np.cumsum(objects) - objects
        right = np.arange(1, objects.sum() + 1) - np.repeat(starts, objects)
        recall = right / np.repeat(objects, objects)
        return cls(np.searchsorted(RECALL_THRESHOLDS, recall, side="right") - 1, starts)

    def of_ranks(self, right: np.ndarray, categories: np.ndarray) -> np.ndarray:
        """Return the bin of the ``right``-th correct detection of each category, from 1."""
        return self.bins[self.starts[categories] + right - 1]
