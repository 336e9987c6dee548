"""Reports that compare two evaluations, or groups of runs."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

from d2_seesaw.data.frequency import GROUP_NAMES, GROUPS
from d2_seesaw.evaluation.analysis.comparison import Comparison, PairChange
from d2_seesaw.evaluation.analysis.differences import RunComparison
from d2_seesaw.evaluation.lvis.rules import METRICS
from d2_seesaw.report import comparison_figures, comparison_tables, figures
from d2_seesaw.report.evaluation_page import FEWEST_OBJECTS, evaluated_text, task_context
from d2_seesaw.report.render import change_text, render
from d2_seesaw.report.series import OUTCOME_NAMES, calibration_means, group_title, outcome_counts
from d2_seesaw.utils.files import write_text

_PAIRS_SHOWN = 15  # of each group
_CATEGORIES_SHOWN = 20
_INTERVAL_METRICS = {"AP": "all", **{f"AP{g}": g for g in GROUPS}}


def write_comparison_report(
    path: str | os.PathLike[str], comparisons: Sequence[Comparison], *, subtitle: str = ""
) -> None:
    """Write the report on two evaluations as a single HTML file.

    Args:
        path: File to write.
        comparisons: Comparisons of their tasks, at least one, in the order of the page.
        subtitle: Text below the title.
    """
    write_text(path, comparison_page(comparisons, subtitle=subtitle))


def comparison_page(comparisons: Sequence[Comparison], *, subtitle: str = "") -> str:
    """Return the report on two evaluations as HTML.

    Args:
        comparisons: Comparisons of their tasks, at least one.
        subtitle: Text below the title.
    """
    first, second = comparisons[0].names
    return render(
        "comparison",
        title=f"{second} compared with {first}",
        subtitle=subtitle,
        names=(first, second),
        tasks=[_context(comparison) for comparison in comparisons],
        outcome_names=OUTCOME_NAMES,
        fewest_objects=FEWEST_OBJECTS,
        categories_shown=_CATEGORIES_SHOWN,
        figures=figures,
    )


def write_run_comparison_report(
    path: str | os.PathLike[str], comparison: RunComparison, *, subtitle: str = ""
) -> None:
    """Write the report on groups of runs as a single HTML file.

    Args:
        path: File to write.
        comparison: The comparison of all tasks.
        subtitle: Text below the title.
    """
    write_text(path, run_comparison_page(comparison, subtitle=subtitle))


def run_comparison_page(comparison: RunComparison, *, subtitle: str = "") -> str:
    """Return the report on groups of runs as HTML.

    Args:
        comparison: The comparison of all tasks.
        subtitle: Text below the title.
    """
    baseline, *others = comparison.groups
    return render(
        "run_comparison",
        title=f"{', '.join(others)} compared with {baseline}",
        subtitle=subtitle,
        figures=comparison_figures,
        tasks=[
            {
                "name": comparison_tables.TASK_NAMES[task.task],
                "metrics": comparison_tables.metric_table(task, comparison.groups),
                "pairs": [
                    {
                        "baseline": pair.baseline,
                        "compared": pair.compared,
                        "pair": pair,
                        "notes": comparison_tables.notes(comparison, task, pair),
                        "drawn": len(comparison_figures.drawn_categories(pair)),
                        "tested": len(pair.with_interval),
                        "categories": comparison_tables.category_table(task, pair),
                    }
                    for pair in task.pairs
                ],
            }
            for task in comparison.tasks
        ],
    )


def _context(comparison: Comparison) -> dict[str, Any]:
    runs = comparison.runs
    curves = [{c.group: c for c in run.calibration} for run in runs.values()]
    ranked = comparison.changed_categories()
    enough = [row for row in ranked if row[0].gt_instances >= FEWEST_OBJECTS]
    return {
        **task_context(comparison.first),
        "comparison": comparison,
        "cards": {
            f"difference of {metric}": change_text(comparison.metric_difference(metric))
            for metric in _INTERVAL_METRICS
        },
        "metrics": [_metric_row(comparison, metric) for metric in METRICS],
        "outcomes": {name: outcome_counts(run) for name, run in runs.items()},
        "confusions": {
            "less": _pair_lists([p for p in comparison.pairs if p.difference < 0]),
            "more": _pair_lists([p for p in comparison.pairs if p.difference > 0]),
        },
        "curves": {
            group: _calibration_row(curves, group)
            for group in dict.fromkeys(group for run_curves in curves for group in run_curves)
        },
        "categories": {
            "Greatest gains": [row for row in enough if row[2] > 0],
            "Greatest losses": [row for row in enough if row[2] < 0][::-1],
        },
        "all_categories": ranked,
    }


def _metric_row(comparison: Comparison, metric: str) -> dict[str, Any]:
    """Return a metric of both runs, its change, the interval and the evaluated categories."""
    row = {
        "name": metric,
        "scores": [run.metrics.get(metric, math.nan) for run in comparison.runs.values()],
        "change": comparison.metric_difference(metric),
        "interval": "",
        "evaluated": "",
    }
    if metric in _INTERVAL_METRICS:
        group = _INTERVAL_METRICS[metric]
        mean = comparison.groups[group]
        row["evaluated"] = f"{mean.categories:,}"
        if group != "all":
            row["evaluated"] = f"{evaluated_text(comparison.first, group)} {GROUP_NAMES[group]}"
        row["interval"] = "n/a"
        if not math.isnan(mean.low):
            row["interval"] = f"{change_text(mean.low)} to {change_text(mean.high)}"
    return row


def _pair_lists(pairs: Sequence[PairChange]) -> tuple[list[PairChange], list[PairChange]]:
    """Return the changes of rare and common categories, and those of frequent ones."""
    by_group = {g: [p for p in pairs if p.pair.category.frequency == g] for g in GROUP_NAMES}
    frequent = by_group.pop("f")[:_PAIRS_SHOWN]
    return [
        pair for group_pairs in by_group.values() for pair in group_pairs[:_PAIRS_SHOWN]
    ], frequent


def _calibration_row(curves: Sequence[dict[str, Any]], group: str) -> dict[str, Any]:
    found = [run_curves.get(group) for run_curves in curves]
    errors = [math.nan if curve is None else curve.error for curve in found]
    return {
        "title": group_title(group),
        "detections": [0 if curve is None else calibration_means(curve)[0] for curve in found],
        "errors": errors,
        "change": errors[1] - errors[0],
    }
