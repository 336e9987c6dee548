"""Charts as inline SVG: points by rank on a logarithmic axis, and bars."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from d2_seesaw.report.svg.marks import GRAY, WIDTH, line, svg, text, titled, upright

_HEIGHT = 320.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 64.0, 12.0, 14.0, 46.0
_MOST_LABELS = 16


class Point(NamedTuple):
    """A value of a chart.

    Attributes:
        value: Where it is drawn, at least 0.
        color: CSS colour.
        label: What is shown when the pointer rests on it.
    """

    value: float
    color: str
    label: str


def rank_chart(
    points: Sequence[Point],
    *,
    x_label: str,
    y_label: str,
    lines: Mapping[str, float] | None = None,
) -> str:
    """Points from left to right in the order given, on a logarithmic axis.

    Values below 1 lie on the lower edge of a decade below 1, where zero stands.

    Args:
        points: what is drawn.
        x_label: of the ranks.
        y_label: of the values.
        lines: dashed horizontal lines at values, by what is written on them.
    """
    zero = any(p.value < 1 for p in points)
    decades = max(1, math.ceil(math.log10(max([p.value for p in points] + [10]))))
    lowest = -0.5 if zero else 0.0
    parts = []

    def y_of(value: float) -> float:
        log = lowest if value < 1 else math.log10(value)
        return _TOP + (decades - log) / (decades - lowest) * (_HEIGHT - _TOP - _BOTTOM)

    for decade in range(decades + 1):
        parts.append(_gridline(y_of(10**decade), f"{10**decade:,}"))
    if zero:
        parts.append(_gridline(y_of(0), "0"))
    for written, value in (lines or {}).items():
        y = y_of(value)
        dashes = 'stroke-dasharray="5 4"'
        parts.append(line(_LEFT, y, WIDTH - _RIGHT, y, color=GRAY, more=dashes))
        parts.append(text(WIDTH - _RIGHT - 4, y - 5, written, "end"))
    step = (WIDTH - _LEFT - _RIGHT) / max(1, len(points))
    radius = min(5.0, max(2.0, step / 3))
    for rank, point in enumerate(points):
        x = _LEFT + (rank + 0.5) * step
        place = f'cx="{x:.1f}" cy="{y_of(point.value):.1f}" r="{radius:.1f}"'
        parts.append(titled("circle", f'{place} fill="{point.color}"', point.label))
    for rank in _ranks_shown(len(points)):
        x = _LEFT + (rank - 0.5) * step
        parts.append(text(x, _HEIGHT - _BOTTOM + 18, f"{rank:,}", "middle"))
    return _chart(parts, x_label, y_label)


def bar_chart(bars: Mapping[str, Point], *, x_label: str, y_label: str) -> str:
    """Bars side by side, with their names below and their values above.

    Args:
        bars: what is drawn, by the name below it.
        x_label: of the names.
        y_label: of the values.
    """
    highest = max([bar.value for bar in bars.values()] + [1e-9])
    step = (WIDTH - _LEFT - _RIGHT) / max(1, len(bars))
    every = math.ceil(len(bars) / _MOST_LABELS)
    parts = [_gridline(_HEIGHT - _BOTTOM, "0")]
    for index, (name, bar) in enumerate(bars.items()):
        height = bar.value / highest * (_HEIGHT - _TOP - _BOTTOM - 16)
        x, y = _LEFT + (index + 0.1) * step, _HEIGHT - _BOTTOM - height
        middle = x + 0.4 * step
        place = f'x="{x:.1f}" y="{y:.1f}" width="{0.8 * step:.1f}" height="{height:.1f}"'
        parts.append(titled("rect", f'{place} fill="{bar.color}"', bar.label))
        if index % every == 0:
            parts.append(text(middle, _HEIGHT - _BOTTOM + 18, name, "middle"))
            parts.append(text(middle, y - 5, f"{bar.value:,.4g}", "middle"))
    return _chart(parts, x_label, y_label)


def _ranks_shown(number: int) -> list[int]:
    """About ten round ranks from 1 to ``number``."""
    if number <= 1:
        return [1] * number
    rough = number / 10
    decade = 10 ** math.floor(math.log10(rough)) if rough >= 1 else 1
    step = next(int(m * decade) for m in (1, 2, 5, 10) if m * decade >= rough)
    ranks = [1, *range(step, number + 1, step)]
    return sorted(set(ranks)) if step > 1 else list(range(1, number + 1))


def _gridline(y: float, written: str) -> str:
    return line(_LEFT, y, WIDTH - _RIGHT, y) + text(_LEFT - 8, y + 4, written, "end")


def _chart(parts: Sequence[str], x_label: str, y_label: str) -> str:
    below = text((_LEFT + WIDTH - _RIGHT) / 2, _HEIGHT - 6, x_label, "middle")
    beside = upright(14, _TOP + (_HEIGHT - _TOP - _BOTTOM) / 2, y_label)
    label = f"{y_label} by {x_label}"
    return svg([*parts, below, beside], width=WIDTH, height=_HEIGHT, label=label)
