"""Charts of differences between groups of runs, with their intervals."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from functools import partial

from d2_seesaw.data.frequency import GROUP_NAMES
from d2_seesaw.evaluation.analysis.differences import (
    Difference,
    PairComparison,
    RunComparison,
    TaskComparison,
)
from d2_seesaw.report.comparison_tables import interval_text
from d2_seesaw.report.drawing import Canvas, Chart, elide_middle, save_chart
from d2_seesaw.report.series import GROUP_COLORS

CATEGORIES_DRAWN = 40
_MARKERS = {"": "D", "r": "o", "c": "^", "f": "s", "n/a": "X"}
_LONGEST_NAME = {True: 36, False: 20}  # on a page, in a paper
_FORMATS = ("png", "svg", "pdf")


def interval_chart(pair: PairComparison, *, categories: bool = False) -> Chart:
    """Draw differences with their intervals, from top to bottom.

    Args:
        pair: Two groups of runs.
        categories: Whether to draw categories instead of AP, APr, APc and APf: those with an
            interval, at most ``CATEGORIES_DRAWN`` with the greatest difference in standard errors,
            by frequency group and difference.
    """
    shown = drawn_categories(pair) if categories else pair.metrics
    title = f"AP, {pair.compared} minus {pair.baseline}"
    return Chart(
        f"differences of {title}, with 95 % intervals",
        partial(_draw_intervals, shown=shown, pair=pair),
        height=90 + 26 * max(1, len(shown)),
        paper_height=0.6 + 0.15 * max(2, len(shown)),
        width=760,
    )


def drawn_categories(pair: PairComparison) -> list[Difference]:
    """Return the categories of the chart, in its order."""
    clearest = sorted(pair.with_interval, key=lambda d: -abs(d.mean) / max(d.standard_error, 1e-9))[
        :CATEGORIES_DRAWN
    ]
    order = list(GROUP_NAMES)
    return sorted(clearest, key=lambda d: (order.index(d.frequency), -d.mean, d.category_id))


def write_interval_figures(
    folder: str | os.PathLike[str],
    comparison: RunComparison,
    *,
    formats: Sequence[str] = _FORMATS,
) -> list[str]:
    """Write the charts of all pairs and tasks for a paper: 3.3 inches wide, 300 dpi.

    Args:
        folder: Folder for ``difference_<task>`` and ``difference_of_categories_<task>``, which end
            with the name of the compared group if there are more than two.
        comparison: The comparison.
        formats: Any of "png", "svg", "pdf" and the other formats of matplotlib.

    Returns:
        The paths of the files.
    """
    charts = _charts(comparison)
    paths = interval_figure_paths(folder, comparison, formats=formats)
    for path, chart in zip(paths, (c for c in charts.values() for _ in formats), strict=True):
        save_chart(chart, path)
    return paths


def interval_figure_paths(
    folder: str | os.PathLike[str],
    comparison: RunComparison,
    *,
    formats: Sequence[str] = _FORMATS,
) -> list[str]:
    """Return the paths of the files that :func:`write_interval_figures` writes."""
    names = [f"{stem}.{suffix}" for stem in _charts(comparison) for suffix in formats]
    return [os.path.join(folder, name) for name in names]


def _charts(comparison: RunComparison) -> dict[str, Chart]:
    charts = {}
    for task in comparison.tasks:
        for pair in task.pairs:
            name = f"{task.task}{_suffix(task, pair)}"
            charts[f"difference_{name}"] = interval_chart(pair)
            if pair.with_interval:
                charts[f"difference_of_categories_{name}"] = interval_chart(pair, categories=True)
    return charts


def _suffix(task: TaskComparison, pair: PairComparison) -> str:
    if len(task.pairs) == 1:
        return ""
    number = task.pairs.index(pair) + 1
    return f"_{number}_{re.sub(r'[^A-Za-z0-9-]+', '_', pair.compared)[:40]}"


def _draw_intervals(canvas: Canvas, *, shown: Sequence[Difference], pair: PairComparison) -> None:
    axes, in_legend = canvas.axes, set()
    for i, d in enumerate(shown):
        if math.isnan(d.mean):
            continue
        group = d.frequency or d.name.removeprefix("AP")
        color = GROUP_COLORS.get(group, canvas.ink)
        if not d.reason:
            width = 2 if canvas.is_page else 0.9
            axes.plot([d.low, d.high], [i, i], color=color, linewidth=width, zorder=2)
        point = axes.scatter(
            [d.mean],
            [i],
            s=45 if canvas.is_page else 9,
            marker=_MARKERS[group],
            facecolors=canvas.surface if d.reason else color,
            edgecolors=color,
            linewidths=1.2 if canvas.is_page else 0.6,
            zorder=3,
        )
        reason = f", no interval: {d.reason}" if d.reason else ""
        canvas.add_tooltips(point, [f"{d.name}: {interval_text(d)}{reason}"])
        if d.category_id is not None and group not in in_legend:
            in_legend.add(group)
            canvas.legend.append((point, GROUP_NAMES[group]))
    axes.axvline(0, color=canvas.ink, linewidth=0.8, zorder=1)
    longest = _LONGEST_NAME[canvas.is_page]
    axes.set_yticks(range(len(shown)), [elide_middle(_label(d), longest) for d in shown])
    if not canvas.is_page:
        axes.tick_params(axis="y", labelsize=8 if len(shown) <= 10 else 6)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    names = (elide_middle(n, longest) for n in (pair.compared, pair.baseline))
    axes.set_xlabel("AP, {} − {}".format(*names))  # noqa: RUF001  a minus sign


def _label(difference: Difference) -> str:
    starred = difference.significant and difference.category_id is not None
    return f"{difference.name}{' *' if starred else ''}"
