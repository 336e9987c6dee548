"""Confusion matrix as a picture."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np

from d2_seesaw.data.frequency import GROUP_NAMES
from d2_seesaw.evaluation.analysis import LongTailAnalysis
from d2_seesaw.evaluation.analysis.confusion_matrix import MatrixTable, matrix_table
from d2_seesaw.report.drawing import Canvas, Chart, elide_middle
from d2_seesaw.report.series import GROUP_COLORS

_MOST_NAMES = 150  # categories that are named; more have only the bounds of their groups
_ROW = 0.105  # inches of a row with a name
_LARGEST = 8.0  # inches of a matrix without names, 2 pixels for each of LVIS's categories
_SMALLEST = 2.4
_LONGEST_NAME = 24
_NUMBERED = 60  # categories up to which shares are written into the cells
_TICKS = (0, 1, 5, 20, 50, 100)


def confusion_heat_map(analysis: LongTailAnalysis) -> Chart:
    """Draw the confusion matrix: shares of the objects of each row, the most frequent first.

    Categories without objects and detections are left out. The shares of small confusions are
    darkened by a square root. Up to 150 categories are named.

    Raises:
        ValueError: the analysis has no confusion matrix.
    """
    table = matrix_table(analysis, all_categories=False)
    number = len(table.rows)
    side = max(_SMALLEST, number * _ROW) if number <= _MOST_NAMES else _LARGEST
    names = 1.6 if number <= _MOST_NAMES else 0.9
    return Chart(
        "confusion matrix",
        partial(_draw, table=table),
        height=72 * (side + names),
        paper_height=side + names,
        width=72 * (side + names + 0.6),
        paper_width=side + names + 0.6,
    )


def _draw(canvas: Canvas, *, table: MatrixTable) -> None:
    from matplotlib.colors import PowerNorm

    axes, number = canvas.axes, len(table.rows)
    totals = table.counts.sum(axis=1, keepdims=True)
    shares = 100 * table.counts / np.maximum(totals, 1)
    axes.grid(visible=False)
    image = axes.imshow(
        shares, cmap="Blues", norm=PowerNorm(0.5, 0, 100), interpolation="none", aspect="equal"
    )
    figure = axes.figure
    bar = figure.colorbar(image, ax=axes, shrink=0.6, pad=0.02, ticks=_TICKS)
    bar.set_label("share of the row, %")
    for spine in axes.spines.values():
        spine.set_visible(True)
    axes.tick_params(length=0, pad=2)
    if number <= _MOST_NAMES:
        size = 72 * _ROW * 0.72
        rows, columns = (
            [last if c is None else elide_middle(c.name, _LONGEST_NAME) for c in categories]
            for categories, last in ((table.rows, "background"), (table.columns, "missed"))
        )
        axes.set_yticks(range(number), rows, fontsize=size)
        axes.set_xticks(range(number), columns, fontsize=size, rotation=90)
    _draw_groups(canvas, table)
    if number <= _NUMBERED:
        for row, column in np.argwhere(shares >= 0.5).tolist():
            share = shares[row, column]
            color = "white" if share > 35 else "black"
            style = {"ha": "center", "va": "center", "fontsize": 4, "color": color}
            axes.text(column, row, f"{share:.0f}", **style)
    axes.set_xlabel("predicted category")
    axes.set_ylabel("annotated category")


def _draw_groups(canvas: Canvas, table: MatrixTable) -> None:
    """Separate the frequency groups, and name them where categories have no names."""
    axes, number = canvas.axes, len(table.rows)
    groups = ["" if c is None else c.frequency for c in table.rows]
    starts = [0, *(i for i in range(1, number) if groups[i] != groups[i - 1]), number]
    line = {"color": canvas.ink, "linewidth": 0.4}
    for bound in starts[1:-1]:
        axes.axhline(bound - 0.5, **line)
        axes.axvline(bound - 0.5, **line)
    if number > _MOST_NAMES:
        spans = [(a, b) for a, b in itertools.pairwise(starts) if groups[a]]
        places = [(a + b) / 2 - 0.5 for a, b in spans]
        names = [GROUP_NAMES[groups[a]] for a, _ in spans]
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(places, names)
        axes.tick_params(axis="y", labelrotation=90)
    else:
        for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
            for label, group in zip(labels, groups, strict=True):
                label.set_color(GROUP_COLORS.get(group, canvas.ink))
    axes.set_xlim(-0.5, number - 0.5)
    axes.set_ylim(number - 0.5, -0.5)
