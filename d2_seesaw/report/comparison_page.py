"""Two evaluations side by side as one HTML page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from d2_seesaw.data.frequency import GROUPS
from d2_seesaw.evaluation.analysis import ReliabilityCurve
from d2_seesaw.evaluation.analysis.comparison import Comparison, PairChange
from d2_seesaw.evaluation.lvis.rules import METRICS
from d2_seesaw.report import (
    GROUP_NAMES,
    Numeral,
    cards,
    columns,
    details,
    heading,
    page,
    paragraph,
    section,
    table,
)
from d2_seesaw.report.evaluation_page import (
    AP_TEXT,
    CALIBRATION_TEXT,
    FEWEST_OBJECTS,
    OUTCOME_TEXT,
    category_cells,
    evaluated_text,
    not_drawn_text,
    task_name,
)
from d2_seesaw.report.series import (
    OUTCOME_NAMES,
    calibration_means,
    change_text,
    group_title,
    outcome_counts,
    score_text,
)
from d2_seesaw.report.svg.analysis import ap_difference_chart, outcome_chart, reliability_charts

_PAIRS_SHOWN = 15  # of each group
_CATEGORIES_SHOWN = 20
_INTERVAL_METRICS = {"AP": "all", **{f"AP{g}": g for g in GROUPS}}

_INTERVAL_TEXT = (
    "Differences are the second run minus the first. The 95 % intervals are a paired bootstrap "
    "over categories: they say how far the difference depends on which categories are in this data "
    "set. They do not cover the noise between trainings with different seeds, a standard deviation "
    "of about 0.3 AP on LVIS (Detectron2's ViTDet project), which one run of each cannot show."
)


def comparison_page(comparisons: Sequence[Comparison], *, subtitle: str = "") -> str:
    """The page of two runs.

    Args:
        comparisons: of their tasks, at least one.
        subtitle: of the page.
    """
    first, second = comparisons[0].names
    parts = []
    for comparison in comparisons:
        task = task_name(comparison.first)
        chart = ap_difference_chart(comparison.first.categories, comparison.differences)
        parts += [
            _metric_section(comparison, task),
            section(
                f"{task}: difference of AP and training images",
                [
                    paragraph(f"Above the line of zero {second} is better. {AP_TEXT}"),
                    chart,
                    paragraph(not_drawn_text(comparison.first)),
                ],
            ),
            _outcome_section(comparison, task),
            _pair_section(comparison, task),
            _calibration_section(comparison, task),
            _category_section(comparison, task),
        ]
    return page(f"{second} compared with {first}", parts, subtitle=subtitle)


def _metric_section(comparison: Comparison, task: str) -> str:
    changes = {
        f"difference of {metric}": change_text(comparison.metric_difference(metric))
        for metric in _INTERVAL_METRICS
    }
    rows = [
        [
            metric,
            *(
                Numeral(score_text(run.metrics.get(metric, math.nan)))
                for run in comparison.runs.values()
            ),
            Numeral(change_text(comparison.metric_difference(metric))),
            _interval(comparison, metric),
            _evaluated(comparison, metric),
        ]
        for metric in METRICS
    ]
    header = ["", *comparison.names, "difference", "95 % interval", "categories evaluated"]
    return section(
        f"{task}: metrics", [cards(changes), table(header, rows), paragraph(_INTERVAL_TEXT)]
    )


def _interval(comparison: Comparison, metric: str) -> str:
    if metric not in _INTERVAL_METRICS:
        return ""
    group = comparison.groups[_INTERVAL_METRICS[metric]]
    if math.isnan(group.low):
        return "n/a"
    return f"{change_text(group.low)} to {change_text(group.high)}"


def _evaluated(comparison: Comparison, metric: str) -> str:
    group = _INTERVAL_METRICS.get(metric)
    if group is None or group == "all":
        return f"{comparison.groups['all'].categories:,}" if group else ""
    return f"{evaluated_text(comparison.first, group)} {GROUP_NAMES[group]}"


def _outcome_section(comparison: Comparison, task: str) -> str:
    counts = {name: outcome_counts(run) for name, run in comparison.runs.items()}
    first = counts[comparison.names[0]]
    possible = dict.fromkeys(outcome for of_group in first.values() for outcome in of_group)
    rows: list[list[Any]] = [
        [f"{GROUP_NAMES[group]}, {name}", *of_run[group].values()]
        for group in first
        for name, of_run in counts.items()
    ]
    header = ["objects", *(OUTCOME_NAMES[outcome] for outcome in possible)]
    chart = outcome_chart(comparison.runs)
    return section(
        f"{task}: what becomes of objects", [paragraph(OUTCOME_TEXT), chart, table(header, rows)]
    )


def _pair_section(comparison: Comparison, task: str) -> str:
    first, second = comparison.names
    less = [p for p in comparison.pairs if p.difference < 0]
    more = [p for p in comparison.pairs if p.difference > 0]
    parts = [
        paragraph(
            "Categories whose objects are taken for those of a category with more training images, "
            f"where {first} and {second} differ most in the number of objects. A change of a few "
            "objects is noise."
        )
    ]
    for word, pairs in {"less": less, "more": more}.items():
        parts.append(heading(f"Taken {word} often for a more frequent category by {second}"))
        parts += _pair_tables(comparison, pairs)
    return section(f"{task}: what swallows the tail", parts)


def _pair_tables(comparison: Comparison, pairs: Sequence[PairChange]) -> list[str]:
    # The more frequent a category, the more objects: together, they would leave no room for r.
    of = {g: [p for p in pairs if p.pair.category.frequency == g] for g in GROUP_NAMES}
    frequent = of.pop("f")[:_PAIRS_SHOWN]
    tail = [pair for of_group in of.values() for pair in of_group[:_PAIRS_SHOWN]]
    nothing = paragraph("No pair of rare or common categories.")
    parts = [_pair_table(comparison, tail) if tail else nothing]
    if frequent:
        summary = f"{len(frequent)} pairs of frequent categories"
        parts.append(details(summary, [_pair_table(comparison, frequent)]))
    return parts


def _pair_table(comparison: Comparison, changes: Sequence[PairChange]) -> str:
    header = ["category", "group", "training images", "taken for", "group", "training images"]
    rows = [
        [
            *category_cells(change.pair.category),
            *category_cells(change.pair.by),
            change.first,
            change.second,
            Numeral(f"{change.difference:+,}"),
            change.pair.of,
        ]
        for change in changes
    ]
    return table([*header, *comparison.names, "difference", "of objects"], rows)


def _calibration_section(comparison: Comparison, task: str) -> str:
    charts = [
        heading(f"Detections of {group_title(group)} categories") + chart
        for group, chart in reliability_charts(comparison.runs).items()
    ]
    of_run = [{c.group: c for c in run.calibration} for run in comparison.runs.values()]
    rows = [
        [
            group_title(group),
            *(cell for of in of_run for cell in _calibration_cells(of.get(group))),
            Numeral(change_text(_error(of_run[1].get(group)) - _error(of_run[0].get(group)))),
        ]
        for group in dict.fromkeys(group for of in of_run for group in of)
    ]
    header = [f"{what}, {n}" for n in comparison.names for what in ("detections", "error, %")]
    parts = [columns(charts), table(["predicted categories", *header, "difference"], rows)]
    return section(f"{task}: calibration", [paragraph(CALIBRATION_TEXT), *parts])


def _calibration_cells(calibration: ReliabilityCurve | None) -> list[Any]:
    number = calibration_means(calibration).detections if calibration else 0
    return [number, Numeral(score_text(_error(calibration)))]


def _error(calibration: ReliabilityCurve | None) -> float:
    return calibration.error if calibration else math.nan


def _category_section(comparison: Comparison, task: str) -> str:
    header = ["category", "group", "training images", "objects here", *comparison.names]
    header.append("difference")
    ranked = comparison.changed_categories()
    rows = [
        [
            *category_cells(before),
            before.gt_instances,
            Numeral(score_text(before.AP)),
            Numeral(score_text(after.AP)),
            Numeral(change_text(difference)),
        ]
        for before, after, difference in ranked
    ]
    enough = [
        (row, difference)
        for row, (category, _, difference) in zip(rows, ranked, strict=True)
        if category.gt_instances >= FEWEST_OBJECTS
    ]
    gains = [row for row, difference in enough if difference > 0]
    losses = [row for row, difference in enough if difference < 0][::-1]
    parts = [
        paragraph(
            f"Gains and losses are of categories with at least {FEWEST_OBJECTS} objects here; of "
            "fewer they would be chance."
        )
    ]
    for title, changed in {"Greatest gains": gains, "Greatest losses": losses}.items():
        parts.append(heading(title))
        if changed:
            parts.append(table(header, changed[:_CATEGORIES_SHOWN]))
        else:
            parts.append(paragraph("No category."))
    parts.append(details(f"All {len(rows):,} with an AP in both", [table(header, rows)]))
    return section(f"{task}: categories", parts)
