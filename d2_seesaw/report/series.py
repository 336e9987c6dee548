"""Numbers, names and colors of what pages and figures show."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from d2_seesaw.data.frequency import GROUP_NAMES, GROUPS
from d2_seesaw.evaluation.analysis import LongTailAnalysis, ReliabilityCurve
from d2_seesaw.evaluation.analysis.confusion import MISSED, RIGHT, group_outcomes
from d2_seesaw.evaluation.lvis.annotations import UNKNOWN_FREQUENCY
from d2_seesaw.evaluation.tables import CategoryResult

GROUP_COLORS = {"r": "#c0392b", "c": "#d68910", "f": "#2471a3", "n/a": "#5d6d7e"}
OUTCOME_NAMES = {
    RIGHT: "correct label",
    **{group: f"labeled as another {GROUP_NAMES[group]} category" for group in GROUPS},
    UNKNOWN_FREQUENCY: "labeled as a category of unknown frequency",
    MISSED: "missed",
}
OUTCOME_COLORS = {RIGHT: "#1e8449", **GROUP_COLORS, MISSED: "#d0d3d4"}

_BINS_PER_DECADE = 4


class TrendPoint(NamedTuple):
    """Mean over categories with a similar number of training images.

    Attributes:
        train_images: Geometric mean of their training images.
        mean: Mean of their values.
        categories: Number of categories.
    """

    train_images: float
    mean: float
    categories: int


class CalibrationMeans(NamedTuple):
    """Means over all bins of a reliability curve; ``nan`` without detections.

    Attributes:
        detections: Number of detections.
        mean_score: In [0, 1].
        precision: In [0, 1].
    """

    detections: int
    mean_score: float
    precision: float


def trend(categories: Iterable[CategoryResult], values: Iterable[float]) -> list[TrendPoint]:
    """Compute means of values over categories, binned by training images.

    There are four bins per power of ten, of equal width in the logarithm and closed on the right,
    so no bin mixes two of LVIS's groups. Empty bins are left out, and so are categories without a
    value or without a known, positive number of training images.

    Args:
        categories: K categories.
        values: K values, ``nan`` where there is none.

    Returns:
        One point for each bin, in ascending order of training images.
    """
    bins: defaultdict[int, list[tuple[int, float]]] = defaultdict(list)
    for category, value in zip(categories, values, strict=True):
        if category.train_images and not math.isnan(value):
            place = round(_BINS_PER_DECADE * math.log10(category.train_images), 9)
            bins[math.ceil(place)].append((category.train_images, value))
    return [
        TrendPoint(
            math.exp(math.fsum(math.log(n) for n, _ in members) / len(members)),
            math.fsum(value for _, value in members) / len(members),
            len(members),
        )
        for _, members in sorted(bins.items())
    ]


def outcome_counts(analysis: LongTailAnalysis) -> dict[str, dict[str, int]]:
    """Return ``group_outcomes`` without the groups and outcomes that have no category.

    Returns:
        Numbers of objects by true group, then by outcome, both in drawing order.
    """
    present = {category.frequency for category in analysis.categories}
    possible = [o for o in OUTCOME_NAMES if o in present or o in (RIGHT, MISSED)]
    return {
        group: {outcome: counts[outcome] for outcome in possible}
        for group, counts in group_outcomes(analysis).items()
        if group in present
    }


def calibration_means(curve: ReliabilityCurve) -> CalibrationMeans:
    """Compute mean score and precision of all detections of a curve."""
    return CalibrationMeans(
        sum(curve.detections),
        _weighted_mean(curve.mean_score, curve.detections),
        _weighted_mean(curve.precision, curve.detections),
    )


def group_title(group: str) -> str:
    """Return the name of a frequency group, or "all"."""
    return "all" if group == "all" else GROUP_NAMES[group]


def _weighted_mean(values: Sequence[float], weights: Sequence[int]) -> float:
    total = sum(weights)
    if not total:
        return math.nan
    return math.fsum(v * w for v, w in zip(values, weights, strict=True) if w) / total
