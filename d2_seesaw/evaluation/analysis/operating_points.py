"""Counts of detections at every score threshold, and the rules that select a threshold.

Matching goes by descending score, so leaving out detections below a threshold changes no match
above it. One matching therefore gives the exact counts at every threshold.

A detection is kept if its score is at least the threshold. Thresholds are halfway between the
lowest score that is kept and the next lower one. If no score is lower, the threshold is the lowest
score itself, because nothing is known about detections below it.

Shapes in this module:
    D: detections
    S: thresholds
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

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

    @classmethod
    def of_scores(cls, scores: np.ndarray, right: np.ndarray, objects: int) -> OperatingPoints:
        """Return the points at all distinct scores.

        Args:
            scores: ``(D,)`` in descending order.
            right: ``(D,)`` whether each detection finds an object.
            objects: Number of objects.
        """
        last = np.flatnonzero(np.diff(scores, append=-np.inf))
        kept = scores[last].astype(np.float64)
        lower = np.append(kept[1:], kept[-1:])
        # Models compare in single precision.
        middle = ((kept + lower) / 2).astype(np.float32).astype(np.float64)
        thresholds = np.where((middle > lower) & (middle <= kept), middle, kept)
        return cls(thresholds, np.cumsum(right)[last], last + 1, objects)

    def best(self) -> OperatingPoints:
        """Return only the points that some rule can select, which are at most ``objects``.

        Another point has at least the same precision and recall as one that is left out.
        """
        precision = self.precision
        best_below = np.maximum.accumulate(precision[::-1])[::-1]
        is_best = np.append(best_below[1:] < precision[:-1], True)[: len(precision)]
        finds_more = np.diff(self.right, prepend=0) > 0
        chosen = np.flatnonzero(is_best & finds_more)
        return replace(
            self,
            thresholds=self.thresholds[chosen],
            right=self.right[chosen],
            detections=self.detections[chosen],
        )

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

        These must be the points that :meth:`best` leaves.

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
