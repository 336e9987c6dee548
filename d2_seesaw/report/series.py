"""What pages and figures draw of an analysis: the numbers, their names and their colours."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from d2_seesaw.data.frequency import GROUPS
from d2_seesaw.evaluation.analysis import LongTailAnalysis, ReliabilityCurve
from d2_seesaw.evaluation.analysis.confusion import MISSED, RIGHT, group_outcomes
from d2_seesaw.evaluation.lvis.annotations import UNKNOWN_FREQUENCY
from d2_seesaw.evaluation.tables import CategoryResult
from d2_seesaw.report import GROUP_COLORS, GROUP_NAMES

TASK_NAMES = {"bbox": "Boxes", "segm": "Masks"}

OUTCOME_NAMES = {
    RIGHT: "named right",
    **{group: f"taken for another {GROUP_NAMES[group]} category" for group in GROUPS},
    UNKNOWN_FREQUENCY: "taken for one of unknown frequency",
    MISSED: "missed",
}
OUTCOME_COLORS = {RIGHT: "#1e8449", **GROUP_COLORS, MISSED: "#d0d3d4"}

_BINS_PER_DECADE = 4


class TrendPoint(NamedTuple):
    """The mean over categories with about as many training images.

    Attributes:
        train_images: Their geometric mean.
        mean: Of the values.
        categories: How many there are.
    """

    train_images: float
    mean: float
    categories: int


class CalibrationMeans(NamedTuple):
    """A calibration over all its bins; ``nan`` without detections.

    Attributes:
        detections: How many there are.
        mean_score: In [0, 1].
        precision: In [0, 1].
    """

    detections: int
    mean_score: float
    precision: float


def trend(categories: Iterable[CategoryResult], values: Iterable[float]) -> list[TrendPoint]:
    """Means of values over categories, by training images.

    There are four bins in each power of ten, equally wide in the logarithm and closed on the right,
    so that none holds categories of two of LVIS's groups. Categories without a value, without
    training images, or where these are unknown, are passed over; so are empty bins.

    Args:
        categories: K of them.
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
    """``group_outcomes``, without what cannot be: groups, and outcomes, of no category.

    Returns:
        Numbers of objects by true group, then by outcome, both in the order in which they are
        drawn.
    """
    present = {category.frequency for category in analysis.categories}
    possible = [o for o in OUTCOME_NAMES if o in present or o in (RIGHT, MISSED)]
    return {
        group: {outcome: counts[outcome] for outcome in possible}
        for group, counts in group_outcomes(analysis).items()
        if group in present
    }


def calibration_means(calibration: ReliabilityCurve) -> CalibrationMeans:
    """Mean score and precision of all detections of a calibration."""
    total = sum(calibration.detections)
    return CalibrationMeans(
        total,
        _weighted(calibration.mean_score, calibration.detections),
        _weighted(calibration.precision, calibration.detections),
    )


def group_title(group: str) -> str:
    """What a group of a calibration, or of outcomes, is called."""
    return "all" if group == "all" else GROUP_NAMES[group]


def group_color(group: str) -> str:
    """Its colour."""
    return GROUP_COLORS.get(group, "#1c2833")


def score_text(value: float) -> str:
    """A score in percent with one decimal, or ``n/a``."""
    return "n/a" if math.isnan(value) else f"{value:.1f}"


def change_text(value: float) -> str:
    """A difference of scores with its sign, or ``n/a``."""
    if math.isnan(value):
        return "n/a"
    return f"{value:+.1f}" if round(value, 1) else "0.0"


def count_text(value: int | None) -> str:
    """A number with separated thousands, or ``n/a``."""
    return "n/a" if value is None else f"{value:,}"


def _weighted(values: Sequence[float], weights: Sequence[int]) -> float:
    total = sum(weights)
    if not total:
        return math.nan
    return math.fsum(v * w for v, w in zip(values, weights, strict=True) if w) / total
