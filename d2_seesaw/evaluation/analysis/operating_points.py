"""Counts of detections at every score threshold, and the rules that select a threshold.

Matching goes by descending score, so leaving out detections below a threshold changes no match
above it. One matching therefore gives the exact counts at every threshold.

A detection is kept if its score is at least the threshold. Thresholds are halfway between the
lowest score that is kept and the next lower one. If no score is lower, the threshold is the lowest
score itself, because nothing is known about detections below it.

Shapes in this module:
    D: detections
    K: sets of detections, such as categories
    R: detections that find an object
    S: thresholds
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ThresholdRule:
    """Rule that selects a threshold among the scores.

    Attributes:
        kind: "best-f1"; "precision" for the highest recall with at least this precision; "recall"
            for the highest precision with at least this recall; "score" for a fixed threshold.
        target: The wanted precision, recall or score, in [0, 1]; 0 for "best-f1".
    """

    kind: str
    target: float = 0.0

    @classmethod
    def parse(cls, value: str | float) -> ThresholdRule:
        """Read ``best-f1``, ``precision=0.9``, ``recall=0.8`` or a score such as ``0.3``.

        Raises:
            ValueError: something else.
        """
        text = str(value).strip()
        if text == "best-f1":
            return cls(text)
        kind, _, number = text.rpartition("=")
        try:
            target = float(number)
        except ValueError:
            target = math.nan
        if kind not in ("", "precision", "recall") or not 0 <= target <= 1:
            raise ValueError(
                "a threshold must be best-f1, precision=P, recall=R or a score, with numbers in "
                f"[0, 1], got {text!r}"
            )
        return cls(kind or "score", target)

    def __str__(self) -> str:
        """Return the text that :meth:`parse` reads."""
        names = {"best-f1": "best-f1", "score": f"{self.target:g}"}
        return names.get(self.kind, f"{self.kind}={self.target:g}")


BEST_F1 = ThresholdRule("best-f1")


@dataclass(frozen=True)
class OperatingPoints:
    """Counts of the detections of one category, or of several, at descending thresholds.

    They are only those that some rule can select, which are at most ``objects``. Another threshold
    has at most the precision and the recall of one of them. See :class:`Ranking`.

    Attributes:
        thresholds: ``(S,)`` lowest scores that are kept.
        right: ``(S,)`` number of detections kept that find an object.
        detections: ``(S,)`` number of detections kept.
        objects: Number of objects.
    """

    thresholds: np.ndarray
    right: np.ndarray
    detections: np.ndarray
    objects: int

    @property
    def precision(self) -> np.ndarray:
        """Return the ``(S,)`` shares of the detections that are right."""
        return self.right / self.detections

    @property
    def recall(self) -> np.ndarray:
        """Return the ``(S,)`` shares of the objects that are found. There must be objects."""
        return self.right / self.objects

    def select(self, rule: ThresholdRule) -> tuple[int, bool] | None:
        """Return the index of the point that a rule selects, and whether its target is reached.

        If no point reaches the target, it is the point with the highest precision or recall. Of
        equal F1, the highest threshold is selected; of equal precision, the highest recall.

        Returns:
            None if no detection is right.
        """
        if not self.right.any():
            return None
        precision = self.precision
        if rule.kind == "best-f1":
            return int(np.argmax(2 * self.right / (self.detections + self.objects))), True
        if rule.kind == "precision":
            reached = precision >= rule.target
            if not reached.any():
                best = np.flatnonzero(precision == precision.max())
                return int(best[np.argmax(self.right[best])]), False
            return int(np.argmax(np.where(reached, self.right, -1))), True
        reached = self.recall >= rule.target
        if not reached.any():
            return int(np.argmax(self.right)), False
        return int(np.argmax(np.where(reached, precision, -1.0))), True


@dataclass(frozen=True)
class Ranking:
    """Detections of several sets, in descending order of score within each set.

    Attributes:
        scores: ``(D,)``, set by set.
        starts: ``(K + 1,)`` first detection of each set, and D.
        right: ``(R,)`` detections that find an object, ascending.
        ends: ``(R,)`` the last detection of the same set and score as each of them.
    """

    scores: np.ndarray
    starts: np.ndarray
    right: np.ndarray
    ends: np.ndarray

    @classmethod
    def of_sets(
        cls, scores: np.ndarray, sets: np.ndarray, right: np.ndarray, number: int
    ) -> Ranking:
        """Build the ranking of sorted detections.

        Args:
            scores: ``(D,)`` in descending order within a set.
            sets: ``(D,)`` set of each detection in [0, K), ascending.
            right: ``(D,)`` whether each detection finds an object.
            number: K.
        """
        found = np.flatnonzero(right)
        is_last = np.ones(len(scores), bool)
        is_last[:-1] = (scores[1:] != scores[:-1]) | (sets[1:] != sets[:-1])
        last = np.flatnonzero(is_last)
        ends = last[np.searchsorted(last, found)]
        return cls(scores, np.searchsorted(sets, np.arange(number + 1)), found, ends)

    def points(self, objects: np.ndarray, kept: np.ndarray | None = None) -> list[OperatingPoints]:
        """Return the points of each set.

        Args:
            objects: ``(K,)`` objects of each set.
            kept: ``(D,)`` which detections there are; all if None.
        """
        if kept is None:
            kept = np.ones(len(self.scores), bool)
        there = np.flatnonzero(kept)
        of_kept = kept[self.right]
        found, ends = self.right[of_kept], self.ends[of_kept]
        # Only a score with a right detection can be selected: other points have the recall of the
        # next higher one and a lower precision. For the same reason, they are not compared.
        detections = np.searchsorted(there, ends, side="right")  # that are there, of all sets
        chosen = np.flatnonzero(np.diff(detections, append=len(there) + 1))
        detections, ends = detections[chosen], ends[chosen]
        sets = np.searchsorted(self.starts, ends, side="right") - 1
        right = chosen + 1 - np.searchsorted(found, self.starts)[sets]
        starts = np.searchsorted(there, self.starts)
        chosen = _better_than_later(right / (detections - starts[sets]), sets, len(objects))
        right, sets, detections = right[chosen], sets[chosen], detections[chosen]
        thresholds = self._thresholds(there, detections, starts[sets + 1])
        detections = detections - starts[sets]
        bounds = np.searchsorted(sets, np.arange(len(objects) + 1)).tolist()
        return [
            OperatingPoints(thresholds[a:b], right[a:b], detections[a:b], number)
            for a, b, number in zip(bounds[:-1], bounds[1:], objects.tolist(), strict=True)
        ]

    def _thresholds(self, there: np.ndarray, nexts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Return the thresholds between detections and the next ones in ``there``.

        Args:
            there: Detections.
            nexts: Places in ``there`` after the detections to keep.
            ends: Ends of their sets in ``there``.
        """
        kept = self.scores[there[nexts - 1]].astype(np.float64)
        is_lowest = nexts == ends
        lower = self.scores[there[np.where(is_lowest, nexts - 1, nexts)]].astype(np.float64)
        # Models compare in single precision.
        middle = ((kept + lower) / 2).astype(np.float32).astype(np.float64)
        return np.where((middle > lower) & (middle <= kept), middle, kept)


def _better_than_later(precision: np.ndarray, sets: np.ndarray, number: int) -> np.ndarray:
    """Return the points whose precision is higher than those of all later ones of their set."""
    values, rank = np.unique(precision, return_inverse=True)
    # Whole numbers, of which those of another set are larger or smaller than all of this one: one
    # running maximum from the end then serves all sets.
    level = (number - sets) * len(values)
    highest = np.maximum.accumulate((level + rank)[::-1])[::-1]
    is_best = np.ones(len(precision), bool)
    is_best[:-1] = (sets[1:] != sets[:-1]) | (highest[1:] - level[:-1] < rank[:-1])
    return np.flatnonzero(is_best)
