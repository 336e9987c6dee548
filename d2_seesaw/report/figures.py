"""Figures of evaluations for papers: PNG files as wide as a column, that read in grey as well."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from d2_seesaw.evaluation.analysis import LongTailAnalysis, ReliabilityCurve
from d2_seesaw.evaluation.analysis.comparison import Comparison
from d2_seesaw.evaluation.analysis.confusion import MISSED, RIGHT
from d2_seesaw.evaluation.tables import CategoryResult
from d2_seesaw.report import GROUP_COLORS, GROUP_NAMES
from d2_seesaw.report.series import (
    OUTCOME_COLORS,
    TrendPoint,
    group_color,
    group_title,
    outcome_counts,
    trend,
)
from d2_seesaw.report.svg.marks import cut

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH, _DPI = 3.3, 300  # inches, the column of a two-column paper
_LONGEST_NAME = 12  # of a run, which shares the column with what is drawn
_MARKERS = {"all": "D", "r": "o", "c": "^", "f": "s", "n/a": "x"}
_OUTCOMES = {RIGHT: "right", MISSED: "missed"}
_HATCHES = {RIGHT: "", "r": "////", "c": "....", "f": "\\\\\\\\", "n/a": "xxxx", MISSED: ""}
_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "axes.linewidth": 0.6,
    "hatch.linewidth": 0.4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
}


def write_figures(folder: str | os.PathLike[str], analysis: LongTailAnalysis) -> list[str]:
    """Write the figures of one analysis, 300 dpi and 3.3 inches wide.

    Args:
        folder: where ``ap_by_training_images_<task>.png``, ``outcomes_<task>.png`` and
            ``calibration_<task>.png`` are written; it is made if missing.
        analysis: what is drawn. The logarithmic axis leaves out categories without training
            images, or where these are unknown.

    Returns:
        The paths of the files.
    """
    values = [c.AP for c in analysis.categories]
    run = {"": analysis}
    return _write_all(
        folder,
        analysis.task,
        {
            "ap_by_training_images": (2.4, lambda axes: _tail(axes, analysis.categories, values)),
            "outcomes": (_outcome_height(run), lambda axes: _outcomes(axes, run)),
            "calibration": (2.9, lambda axes: _reliability_of_groups(axes, analysis.calibration)),
        },
    )


def write_comparison_figures(folder: str | os.PathLike[str], comparison: Comparison) -> list[str]:
    """Write the figures of two runs, 300 dpi and 3.3 inches wide.

    Args:
        folder: where ``ap_difference_by_training_images_<task>.png``,
            ``outcomes_compared_<task>.png`` and ``calibration_compared_<task>.png`` are written; it
            is made if missing.
        comparison: what is drawn.

    Returns:
        The paths of the files.
    """
    categories, runs = comparison.first.categories, comparison.runs
    label = f"AP, {_elide(comparison.names[1])} − {_elide(comparison.names[0])}"  # noqa: RUF001  a minus sign

    return _write_all(
        folder,
        comparison.first.task,
        {
            "ap_difference_by_training_images": (
                2.4,
                lambda axes: _tail(axes, categories, comparison.differences, label),
            ),
            "outcomes_compared": (_outcome_height(runs), lambda axes: _outcomes(axes, runs)),
            "calibration_compared": (2.9, lambda axes: _reliability_of_runs(axes, runs)),
        },
    )


def _write_all(
    folder: str | os.PathLike[str],
    task: str,
    drawings: Mapping[str, tuple[float, Callable[[Axes], None]]],
) -> list[str]:
    # Not pyplot: it would choose a backend for the whole process and keep every figure.
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    os.makedirs(folder, exist_ok=True)
    paths = []
    for name, (height, draw) in drawings.items():
        path = os.path.join(folder, f"{name}_{task}.png")
        with matplotlib.rc_context(_STYLE):
            figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, layout="constrained")
            canvas = FigureCanvasAgg(figure)
            draw(figure.add_subplot())
            canvas.print_png(path)
        paths.append(path)
    return paths


def _tail(
    axes: Axes, categories: Sequence[CategoryResult], values: Sequence[float], label: str = "AP"
) -> None:
    for group, name in GROUP_NAMES.items():
        points = [
            (c.train_images, value)
            for c, value in zip(categories, values, strict=True)
            if c.frequency == group and c.train_images and not math.isnan(value)
        ]
        if points:
            axes.scatter(
                *zip(*points, strict=True),
                s=6,
                marker=_MARKERS[group],
                color=GROUP_COLORS[group],
                alpha=0.5,
                linewidths=0.4,
                label=name,
            )
    _trend_line(axes, trend(categories, values))
    if not axes.collections:
        axes.text(0.5, 0.5, "no category to show", transform=axes.transAxes, ha="center")
    axes.set_xscale("log")
    axes.axhline(0, color="0.6", linewidth=0.6, zorder=0)
    axes.set_xlabel("training images")
    axes.set_ylabel(label)
    _legend_above(axes, columns=4)


def _trend_line(axes: Axes, points: Sequence[TrendPoint]) -> None:
    if points:
        x, y = [p.train_images for p in points], [p.mean for p in points]
        axes.plot(x, y, color="black", linewidth=1.2, label="mean")


def _outcome_height(runs: Mapping[str, LongTailAnalysis]) -> float:
    bars = sum(len(outcome_counts(analysis)) for analysis in runs.values())
    return 1.25 + 0.24 * bars


def _outcomes(axes: Axes, runs: Mapping[str, LongTailAnalysis]) -> None:
    counts = {name: outcome_counts(analysis) for name, analysis in runs.items()}
    groups = dict.fromkeys(group for of_run in counts.values() for group in of_run)
    bars = [
        (_bar_name(group, name), of_run[group])
        for group in groups
        for name, of_run in counts.items()
        if group in of_run
    ]
    possible = dict.fromkeys(outcome for _, outcomes in bars for outcome in outcomes)
    left = [0.0] * len(bars)
    for outcome in possible:
        shares = [
            100 * outcomes.get(outcome, 0) / max(1, sum(outcomes.values())) for _, outcomes in bars
        ]
        axes.barh(
            range(len(bars)),
            shares,
            left=left,
            height=0.75,
            color=OUTCOME_COLORS[outcome],
            hatch=_HATCHES[outcome],
            edgecolor="white",
            linewidth=0.4,
            label=_OUTCOMES.get(outcome) or f"as {GROUP_NAMES[outcome]}",
        )
        left = [a + b for a, b in zip(left, shares, strict=True)]
    axes.set_yticks(range(len(bars)), [name for name, _ in bars])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of the objects, %")
    _legend_above(axes, columns=3)


def _bar_name(group: str, run: str) -> str:
    return f"{GROUP_NAMES[group]}, {_elide(run)}" if run else GROUP_NAMES[group]


def _elide(run: str) -> str:
    return cut(run, _LONGEST_NAME)


def _reliability_of_groups(axes: Axes, calibrations: Sequence[ReliabilityCurve]) -> None:
    for calibration in calibrations:
        _reliability(axes, calibration, group_title(calibration.group))
    _finish_calibration(axes, columns=4)


def _reliability_of_runs(axes: Axes, runs: Mapping[str, LongTailAnalysis]) -> None:
    for index, (name, analysis) in enumerate(runs.items()):
        for calibration in analysis.calibration:
            if calibration.group != "all":
                label = f"{group_title(calibration.group)}, {_elide(name)}"
                _reliability(axes, calibration, label, dashed=index == 0)
    _finish_calibration(axes, columns=2)


def _reliability(
    axes: Axes, calibration: ReliabilityCurve, label: str, *, dashed: bool = False
) -> None:
    look: dict[str, Any] = {"linestyle": "--", "markerfacecolor": "white"} if dashed else {}
    axes.plot(
        calibration.mean_score,
        calibration.precision,
        color=group_color(calibration.group),
        marker=_MARKERS[calibration.group],
        markersize=3,
        markeredgewidth=0.7,
        linewidth=0.9,
        label=label,
        **look,
    )


def _finish_calibration(axes: Axes, *, columns: int) -> None:
    axes.plot([0, 1], [0, 1], color="0.5", linewidth=0.7, linestyle=":")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("mean score of the detections")
    axes.set_ylabel("share of them that is right")
    _legend_above(axes, columns=columns)


def _legend_above(axes: Axes, *, columns: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.figure.legend(  # pyright: ignore[reportAttributeAccessIssue]  a SubFigure has it, too
            handles,
            labels,
            loc="outside upper center",
            ncols=columns,
            frameon=False,
            markerscale=1.5,
            handlelength=1.6,
            handletextpad=0.4,
            columnspacing=1.0,
        )
