"""What an LVIS evaluation yields, and how it follows from the curves of precision and recall.

The thresholds, sizes and means are those of Gupta et al., CVPR 2019
(https://arxiv.org/abs/1908.03195), as ``lvis`` 0.5.3 computes them.

Shapes in this module:
    T: IoU thresholds
    R: recall thresholds
    K: categories, in order of their id
    A: area ranges
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")
TASKS = ("bbox", "segm")

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)
# Bounds are part of both neighbours. In order: all, small, medium, large.
AREA_RANGES = np.array([[0, 1e5**2], [0, 32**2], [32**2, 96**2], [96**2, 1e5**2]])


@dataclass(frozen=True)
class LVISScores:
    """What one evaluation yields, in percent; ``nan`` where there is no ground truth to score.

    Attributes:
        metrics: One value for each of ``METRICS``.
        category_ids: K category ids, ascending; none if categories were not told apart.
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
    """Means of the curves.

    Args:
        precision: ``(T, R, K, A)``, in [0, 1]; -1 without ground truth.
        recall: ``(T, K, A)``, in the same way.
        category_ids: K ids, or none if all categories were scored as one, for K = 1.
        groups: Indices of the categories of each frequency group "r", "c" and "f".
    """
    every_area = precision[..., 0]
    metrics = {
        "AP": _percent(every_area),
        "AP50": _percent(every_area[_at(0.5)]),
        "AP75": _percent(every_area[_at(0.75)]),
        **{f"AP{s}": _percent(precision[..., a]) for a, s in enumerate("sml", start=1)},
        **{f"AP{g}": _percent(every_area[..., i]) for g, i in groups.items()},
    }
    of_categories = every_area[..., : len(category_ids)]
    return LVISScores(
        metrics={m: metrics.get(m, math.nan) for m in METRICS},
        category_ids=list(category_ids),
        category_ap=_by_category(of_categories),
        category_ap50=_by_category(of_categories[_at(0.5)]),
        category_ar=_by_category(recall[:, None, : len(category_ids), 0]),
    )


def _at(threshold: float) -> np.ndarray:
    return np.isclose(IOU_THRESHOLDS, threshold)


def _percent(values: np.ndarray) -> float:
    present = values[values > -1]
    return 100 * float(present.mean()) if present.size else math.nan


def _by_category(curves: np.ndarray) -> np.ndarray:
    """``(K,)`` percent of ``(T, R, K)`` curves, for a category all or none of them -1."""
    absent = (curves < 0).any(axis=(0, 1))
    return np.where(absent, np.nan, 100 * curves.mean(axis=(0, 1)))
