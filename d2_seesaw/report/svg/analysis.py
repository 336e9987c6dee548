"""Analyses of evaluations as inline SVG: of one run, or of several side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from d2_seesaw.evaluation.analysis import LongTailAnalysis, ReliabilityCurve
from d2_seesaw.evaluation.tables import CategoryResult
from d2_seesaw.report import (
    GROUP_COLORS,
    GROUP_NAMES,
    Key,
    Series,
    Share,
    ShareBar,
    Spot,
    line_chart,
    scatter_chart,
    share_bars,
)
from d2_seesaw.report.series import (
    OUTCOME_COLORS,
    OUTCOME_NAMES,
    change_text,
    count_text,
    group_color,
    group_title,
    outcome_counts,
    score_text,
    trend,
)

_TREND = "#1c2833"


def ap_chart(analysis: LongTailAnalysis) -> str:
    """AP of each category against its training images, with the mean along the tail."""
    values = [category.AP for category in analysis.categories]
    return _tail_chart(analysis.categories, values, "AP", score_text)


def ap_difference_chart(categories: Sequence[CategoryResult], differences: Sequence[float]) -> str:
    """Difference of the AP of each category against its training images, and its mean."""
    return _tail_chart(categories, differences, "difference of AP", change_text)


def outcome_chart(runs: Mapping[str, LongTailAnalysis]) -> str:
    """What becomes of the objects of each group, one bar for each run.

    Args:
        runs: analyses by the name of the run, which is written if there are several.
    """
    counts = {name: outcome_counts(analysis) for name, analysis in runs.items()}
    groups = dict.fromkeys(group for of_run in counts.values() for group in of_run)
    bars = []
    for group in groups:
        for index, (name, of_run) in enumerate(counts.items()):
            outcomes = of_run.get(group, {})
            bars.append(
                ShareBar(
                    GROUP_NAMES[group] if len(runs) == 1 else f"{GROUP_NAMES[group]}, {name}",
                    f"{sum(outcomes.values()):,} objects",
                    [Share(OUTCOME_NAMES[o], n, OUTCOME_COLORS[o]) for o, n in outcomes.items()],
                    gap=len(runs) > 1 and index == 0,
                )
            )
    return share_bars(bars, label="what becomes of the objects of each group", nothing="no objects")


def reliability_chart(analysis: LongTailAnalysis) -> str:
    """Precision against mean score, of all detections and of those of each group."""
    series = [
        Series(group_title(c.group), group_color(c.group), _reliability(c, group_title(c.group)))
        for c in analysis.calibration
        if any(c.detections)
    ]
    return _reliability_diagram(series)


def reliability_charts(runs: Mapping[str, LongTailAnalysis]) -> dict[str, str]:
    """Precision against mean score: a chart for each group, with a line for each run."""
    groups = dict.fromkeys(c.group for analysis in runs.values() for c in analysis.calibration)
    charts = {}
    for group in groups:
        series = [
            Series(name, group_color(group), _reliability(c, name), dashed=index == 0)
            for index, (name, analysis) in enumerate(runs.items())
            for c in analysis.calibration
            if c.group == group
        ]
        charts[group] = _reliability_diagram(series)
    return charts


def _tail_chart(
    categories: Sequence[CategoryResult],
    values: Sequence[float],
    y_label: str,
    written: Callable[[float], str],
) -> str:
    spots = [
        Spot(
            math.nan if c.train_images is None else c.train_images,
            value,
            GROUP_COLORS[c.frequency],
            f"{c.name}: {y_label} {written(value)}, {count_text(c.train_images)} training images, "
            f"{c.gt_instances:,} objects here",
        )
        for c, value in zip(categories, values, strict=True)
    ]
    line = [
        Spot(
            point.train_images,
            point.mean,
            _TREND,
            f"mean of {point.categories:,} categories of about {point.train_images:,.0f} "
            f"training images: {written(point.mean)}",
        )
        for point in trend(categories, values)
    ]
    present = {c.frequency for c in categories}
    keys = [Key(GROUP_NAMES[g], GROUP_COLORS[g]) for g in GROUP_NAMES if g in present]
    if line:
        keys.append(Key("mean of categories with about as many training images", _TREND, "line"))
    return scatter_chart(
        spots,
        x_label="training images",
        y_label=y_label,
        line=line,
        keys=keys,
        log_x=True,
        nothing="no category has a score",
    )


def _reliability(calibration: ReliabilityCurve, name: str) -> list[tuple[float, float, str]]:
    return [
        (
            score,
            precision,
            f"{name}: {number:,} detections of mean score {score:.2f}, {precision:.0%} of them "
            "right",
        )
        if number
        else (math.nan, math.nan, "")
        for number, score, precision in zip(
            calibration.detections, calibration.mean_score, calibration.precision, strict=True
        )
    ]


def _reliability_diagram(series: Sequence[Series]) -> str:
    return line_chart(
        series,
        x_label="mean score of the detections",
        y_label="share of them that is right",
        diagonal=True,
        nothing="no detections",
    )
