"""Charts of evaluations and comparisons, for pages and for papers."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from d2_seesaw.data.frequency import GROUP_NAMES, GROUPS
from d2_seesaw.evaluation.analysis import LongTailAnalysis, ReliabilityCurve
from d2_seesaw.evaluation.analysis.comparison import Comparison
from d2_seesaw.evaluation.analysis.confusion import MISSED, RIGHT
from d2_seesaw.evaluation.tables import CategoryResult
from d2_seesaw.report.confusion_figure import confusion_heat_map
from d2_seesaw.report.drawing import Canvas, Chart, contrast_color, elide_middle, save_chart
from d2_seesaw.report.render import change_text, count_text, score_text
from d2_seesaw.report.series import (
    GROUP_COLORS,
    OUTCOME_COLORS,
    OUTCOME_NAMES,
    group_title,
    outcome_counts,
    trend,
)

if TYPE_CHECKING:
    from matplotlib.patches import Rectangle

MARKERS = {"all": "D", "r": "o", "c": "^", "f": "s", "n/a": "X"}
_PAPER_OUTCOMES = {RIGHT: "correct", MISSED: "missed"}
_HATCHES = {RIGHT: "", "r": "////", "c": "....", "f": "\\\\\\\\", "n/a": "xxxx", MISSED: ""}
_LONGEST_RUN = 12  # characters of the name of a run in a paper
_LONGEST_NAME = 36  # the same on a page
_LEAST_SHARE = 3.5  # percent of a bar that has room for its number


class Line(NamedTuple):
    """Line of a reliability diagram.

    Attributes:
        label: Name in the legend.
        curve: The data.
        dashed: Whether the line is dashed, with hollow markers.
    """

    label: str
    curve: ReliabilityCurve
    dashed: bool = False


def write_figures(
    folder: str | os.PathLike[str],
    shown: LongTailAnalysis | Comparison,
    *,
    formats: Sequence[str] = ("png",),
) -> list[str]:
    """Write figures for a paper: 3.3 inches wide, 300 dpi, readable in grayscale.

    Args:
        folder: Folder for the files; it is created if missing. An analysis gives
            ``ap_by_training_images_<task>``, ``outcomes_<task>``, ``calibration_<task>`` and, as
            wide as it needs to be, ``confusion_<task>``; a comparison
            ``ap_difference_by_training_images_<task>``, ``outcomes_compared_<task>`` and
            ``calibration_compared_<task>``.
        shown: One analysis, or the comparison of two.
        formats: Any of "png", "pdf" and the other formats of matplotlib.

    Returns:
        The paths of the files.
    """
    charts = _charts(shown)
    paths = figure_paths(folder, shown, formats=formats)
    for path, chart in zip(paths, (c for c in charts.values() for _ in formats), strict=True):
        save_chart(chart, path)
    return paths


def figure_paths(
    folder: str | os.PathLike[str],
    shown: LongTailAnalysis | Comparison,
    *,
    formats: Sequence[str] = ("png",),
) -> list[str]:
    """Return the paths of the files that :func:`write_figures` writes."""
    task = shown.first.task if isinstance(shown, Comparison) else shown.task
    names = [f"{name}_{task}.{suffix}" for name in _charts(shown) for suffix in formats]
    return [os.path.join(folder, name) for name in names]


def _charts(shown: LongTailAnalysis | Comparison) -> dict[str, Chart]:
    if isinstance(shown, Comparison):
        return {
            "ap_difference_by_training_images": ap_difference_by_training_images(shown),
            "outcomes_compared": outcomes(shown.runs),
            "calibration_compared": reliability_of_runs(shown.runs, GROUPS),
        }
    charts = {
        "ap_by_training_images": ap_by_training_images(shown),
        "outcomes": outcomes({"": shown}),
        "calibration": reliability(shown),
    }
    if shown.matrix is not None:
        charts["confusion"] = confusion_heat_map(shown)
    return charts


def ap_by_training_images(analysis: LongTailAnalysis) -> Chart:
    """Draw the AP of each category by its training images, with the mean along the tail."""
    values = [category.AP for category in analysis.categories]
    draw = partial(_draw_tail, categories=analysis.categories, values=values)
    return Chart("AP by training images", draw, height=400)


def ap_difference_by_training_images(comparison: Comparison) -> Chart:
    """Draw the difference of AP of each category by its training images, and its mean."""
    draw = partial(
        _draw_tail,
        categories=comparison.first.categories,
        values=comparison.differences,
        runs=comparison.names,
    )
    return Chart("difference of AP by training images", draw, height=400)


def outcomes(runs: Mapping[str, LongTailAnalysis]) -> Chart:
    """Draw the shares of the outcomes of the objects of each group, one bar for each run.

    Args:
        runs: Analyses by the name of the run. The name of a single run is not shown.
    """
    counts = {name: outcome_counts(analysis) for name, analysis in runs.items()}
    bars = sum(map(len, counts.values()))
    return Chart(
        "shares of the outcomes of the objects of each group",
        partial(_draw_outcomes, counts=counts),
        height=110 + 34 * bars,
        paper_height=1.25 + 0.24 * bars,
    )


def reliability(analysis: LongTailAnalysis) -> Chart:
    """Draw precision by mean score, for all detections and for each group."""
    return _reliability_chart([Line(group_title(c.group), c) for c in analysis.calibration])


def reliability_of_runs(runs: Mapping[str, LongTailAnalysis], groups: Sequence[str]) -> Chart:
    """Draw precision by mean score for each group and run. The first run is dashed.

    Args:
        runs: Analyses by the name of the run.
        groups: Groups to draw. The name of a single group is not shown.
    """
    lines = []
    for index, (name, analysis) in enumerate(runs.items()):
        for curve in analysis.calibration:
            if curve.group in groups:
                prefix = f"{group_title(curve.group)}, " if len(groups) > 1 else ""
                label = prefix + elide_middle(name, _LONGEST_RUN if prefix else _LONGEST_NAME)
                lines.append(Line(label, curve, dashed=index == 0))
    return _reliability_chart(lines)


def _draw_tail(
    canvas: Canvas,
    *,
    categories: Sequence[CategoryResult],
    values: Sequence[float],
    runs: tuple[str, str] | None = None,
) -> None:
    axes, written = canvas.axes, change_text if runs else score_text
    what = "difference of AP" if runs else "AP"
    shown = [(c, v) for c, v in zip(categories, values, strict=True) if not math.isnan(v)]
    place = _TailAxis([c.train_images for c, _ in shown])
    for group, name in GROUP_NAMES.items():
        members = [(i, c, v) for i, (c, v) in enumerate(shown) if c.frequency == group]
        if not members:
            continue
        points = axes.scatter(
            [place.positions[i] for i, _, _ in members],
            [v for _, _, v in members],
            s=45 if canvas.is_page else 6,
            marker=MARKERS[group],
            color=GROUP_COLORS[group],
            alpha=0.6,
            linewidths=0.4,
            clip_on=False,
        )
        texts = [
            f"{c.name}: {what} {written(v)}, {count_text(c.train_images)} training images, "
            f"{c.gt_instances:,} evaluated objects"
            for _, c, v in members
        ]
        canvas.add_tooltips(points, texts)
        canvas.legend.append((points, name))
    if mean := trend(categories, values):
        (line,) = axes.plot(
            [p.train_images for p in mean],
            [p.mean for p in mean],
            color=canvas.ink,
            linewidth=2 if canvas.is_page else 1.2,
            marker="o" if canvas.is_page else "",
            markersize=5,
            clip_on=False,
        )
        texts = [
            f"mean of {p.categories:,} categories with about {p.train_images:,.0f} training "
            f"images: {written(p.mean)}"
            for p in mean
        ]
        canvas.add_tooltips(line, texts)
        name = "mean of categories with a similar number of training images"
        canvas.legend.append((line, name if canvas.is_page else "mean"))
    if not shown:
        axes.text(0.5, 0.5, "no category has a score", transform=axes.transAxes, ha="center")
    place.apply(canvas)
    axes.axhline(0, color=canvas.ink, linewidth=0.6, zorder=0)
    axes.set_xlabel("training images")
    first, second = (elide_middle(name, _LONGEST_RUN) for name in runs or ("", ""))
    axes.set_ylabel(f"AP, {second} − {first}" if runs else "AP")  # noqa: RUF001  a minus sign


class _TailAxis:
    """Logarithmic axis of training images, with places for 0 and for unknown numbers."""

    def __init__(self, images: Sequence[int | None]) -> None:
        known = [n for n in images if n]
        self._low, self._high = min(known, default=1), max(known, default=1)
        if self._high < 3 * self._low:
            self._low, self._high = self._low / 1.8, self._high * 1.8
        self._has_zero = 0 in images
        if self._has_zero:
            self._low = 1
        unknown = [i for i, n in enumerate(images) if n is None]
        rank = {i: (r + 0.5) / len(unknown) for r, i in enumerate(unknown)}
        # Unknown numbers are spread over a tenth of the axis, on its right.
        self._strip = 0.1 * math.log10(self._high / self._low)
        self._has_unknown = bool(unknown)
        self.positions = [
            self._beside(0.5 + rank[i]) if n is None else n for i, n in enumerate(images)
        ]

    def _beside(self, strips: float) -> float:
        return self._high * 10 ** (strips * self._strip)

    def apply(self, canvas: Canvas) -> None:
        """Set scale, limits and ticks."""
        axes = canvas.axes
        margin = 1 + 0.03 * math.log(self._high / self._low)
        low = -0.1 if self._has_zero else self._low / margin
        axes.set_xlim(low, (self._beside(1.5) if self._has_unknown else self._high) * margin)
        if self._has_zero:
            axes.set_xscale("symlog", linthresh=1, linscale=0.35)
        else:
            axes.set_xscale("log")
        multiples = (1,) if self._high > 100 * self._low else (1, 2, 5)
        decades = range(math.floor(math.log10(self._low)), math.ceil(math.log10(self._high)) + 1)
        values = [
            m * 10**d for d in decades for m in multiples if self._low <= m * 10**d <= self._high
        ]
        ticks = {value: f"{value:,}" for value in values}
        if self._has_zero:
            ticks = {0: "0", **ticks}
        if self._has_unknown:
            ticks[self._beside(1.0)] = "unknown"
        axes.set_xticks(list(ticks), list(ticks.values()))
        axes.set_xticks([], minor=True)


class _Bar(NamedTuple):
    name: str
    numbers: Mapping[str, int]  # of objects by outcome
    place: float

    def share(self, outcome: str) -> float:
        """Return the percentage of an outcome, 0 without objects."""
        return 100 * self.numbers.get(outcome, 0) / max(1, self.total)

    @property
    def total(self) -> int:
        return sum(self.numbers.values())


def _outcome_bars(
    canvas: Canvas, counts: Mapping[str, Mapping[str, Mapping[str, int]]]
) -> list[_Bar]:
    """Return the bars of all groups and runs, from top to bottom."""
    several = len(counts) > 1
    bars, gap = [], 0.35 if several and canvas.is_page else 0.0
    for index, group in enumerate(
        dict.fromkeys(g for run_counts in counts.values() for g in run_counts)
    ):
        for run, run_counts in counts.items():
            if group in run_counts:
                short = elide_middle(run, _LONGEST_NAME if canvas.is_page else _LONGEST_RUN)
                name = f"{GROUP_NAMES[group]}, {short}" if several else GROUP_NAMES[group]
                bars.append(_Bar(name, run_counts[group], len(bars) + index * gap))
    return bars


def _draw_outcomes(
    canvas: Canvas, *, counts: Mapping[str, Mapping[str, Mapping[str, int]]]
) -> None:
    axes, bars = canvas.axes, _outcome_bars(canvas, counts)
    places = [bar.place for bar in bars]
    left = [0.0] * len(bars)
    for outcome in dict.fromkeys(outcome for bar in bars for outcome in bar.numbers):
        shares = [bar.share(outcome) for bar in bars]
        drawn = axes.barh(
            places,
            shares,
            left=left,
            height=0.75,
            color=OUTCOME_COLORS[outcome],
            hatch="" if canvas.is_page else _HATCHES[outcome],
            edgecolor=canvas.surface,
            linewidth=0 if canvas.is_page else 0.4,
        )
        for patch, bar, share, start in zip(drawn, bars, shares, left, strict=True):
            if share:
                _explain_share(canvas, patch, bar, outcome, start)
        short = _PAPER_OUTCOMES.get(outcome) or f"as {GROUP_NAMES[outcome]}"
        canvas.legend.append((drawn, OUTCOME_NAMES[outcome] if canvas.is_page else short))
        left = [a + b for a, b in zip(left, shares, strict=True)]
    for bar in bars if canvas.is_page else ():
        axes.text(101, bar.place, f"{bar.total:,} objects", va="center")
        if not bar.total:
            axes.text(1, bar.place, "no objects", va="center")
    axes.set_yticks(places, [bar.name for bar in bars])
    axes.grid(visible=False, axis="y")
    axes.set_ylim(max(places, default=0) + 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of the objects, %")


def _explain_share(canvas: Canvas, patch: Rectangle, bar: _Bar, outcome: str, start: float) -> None:
    """Add the tooltip of a part of a bar, and its percentage if there is room."""
    share, number = bar.share(outcome), bar.numbers[outcome]
    text = f"{number:,} of {bar.total:,} ({share / 100:.1%})"
    canvas.add_tooltips(patch, [f"{bar.name}: {OUTCOME_NAMES[outcome]}, {text}"])
    if canvas.is_page and share >= _LEAST_SHARE:
        canvas.axes.text(
            start + share / 2,
            bar.place,
            f"{share:.0f}%",
            ha="center",
            va="center",
            color=contrast_color(OUTCOME_COLORS[outcome]),
        )


def _reliability_chart(lines: Sequence[Line]) -> Chart:
    draw = partial(_draw_reliability, lines=lines)
    return Chart("precision by mean score", draw, height=450, paper_height=2.9, width=520)


def _draw_reliability(canvas: Canvas, *, lines: Sequence[Line]) -> None:
    axes = canvas.axes
    lines = [line for line in lines if any(line.curve.detections)]
    for label, curve, dashed in lines:
        color = GROUP_COLORS.get(curve.group, canvas.ink)
        (line,) = axes.plot(
            curve.mean_score,
            curve.precision,
            color=color,
            marker=MARKERS[curve.group],
            markersize=7 if canvas.is_page else 3,
            markeredgewidth=1.5 if canvas.is_page else 0.7,
            markerfacecolor=canvas.surface if dashed else color,
            linewidth=2 if canvas.is_page else 0.9,
            linestyle="--" if dashed else "-",
            clip_on=False,
        )
        bins = zip(curve.detections, curve.mean_score, curve.precision, strict=True)
        texts = [
            f"{label}: {number:,} detections with mean score {score:.2f}, {precision:.0%} correct"
            for number, score, precision in bins
            if number
        ]
        canvas.add_tooltips(line, texts)
        canvas.legend.append((line, label))
    if not lines:
        axes.text(0.5, 0.5, "no detections", ha="center")
    axes.plot([0, 1], [0, 1], color="0.5", linewidth=0.7, linestyle=":")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("mean score of the detections")
    axes.set_ylabel("share of correct detections")
