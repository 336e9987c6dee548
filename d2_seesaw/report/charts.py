"""Charts as inline SVG: points by rank on a logarithmic axis, and bars."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

_WIDTH, _HEIGHT = 1000.0, 320.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 64.0, 12.0, 14.0, 46.0
_GREY, _LINE = "#566573", "#e1e5e8"
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
    for text, value in (lines or {}).items():
        y = y_of(value)
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
            f'stroke="{_GREY}" stroke-dasharray="5 4"/>'
            + _text(_WIDTH - _RIGHT - 4, y - 5, text, "end")
        )
    step = (_WIDTH - _LEFT - _RIGHT) / max(1, len(points))
    radius = min(5.0, max(2.0, step / 3))
    for rank, point in enumerate(points):
        x = _LEFT + (rank + 0.5) * step
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y_of(point.value):.1f}" r="{radius:.1f}" '
            f'fill="{point.color}"><title>{html.escape(point.label)}</title></circle>'
        )
    for rank in _ranks_shown(len(points)):
        x = _LEFT + (rank - 0.5) * step
        parts.append(_text(x, _HEIGHT - _BOTTOM + 18, f"{rank:,}", "middle"))
    return _svg(parts, x_label, y_label)


def bar_chart(bars: Mapping[str, Point], *, x_label: str, y_label: str) -> str:
    """Bars side by side, with their names below and their values above.

    Args:
        bars: what is drawn, by the name below it.
        x_label: of the names.
        y_label: of the values.
    """
    highest = max([bar.value for bar in bars.values()] + [1e-9])
    step = (_WIDTH - _LEFT - _RIGHT) / max(1, len(bars))
    every = math.ceil(len(bars) / _MOST_LABELS)
    parts = [_gridline(_HEIGHT - _BOTTOM, "0")]
    for index, (name, bar) in enumerate(bars.items()):
        height = bar.value / highest * (_HEIGHT - _TOP - _BOTTOM - 16)
        x, y = _LEFT + (index + 0.1) * step, _HEIGHT - _BOTTOM - height
        middle = x + 0.4 * step
        parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{0.8 * step:.1f}" height="{height:.1f}" '
            f'fill="{bar.color}"><title>{html.escape(bar.label)}</title></rect>'
        )
        if index % every == 0:
            parts.append(_text(middle, _HEIGHT - _BOTTOM + 18, name, "middle"))
            parts.append(_text(middle, y - 5, f"{bar.value:,.4g}", "middle"))
    return _svg(parts, x_label, y_label)


def _ranks_shown(number: int) -> list[int]:
    """About ten round ranks from 1 to ``number``."""
    if number <= 1:
        return [1] * number
    rough = number / 10
    decade = 10 ** math.floor(math.log10(rough)) if rough >= 1 else 1
    step = next(int(m * decade) for m in (1, 2, 5, 10) if m * decade >= rough)
    ranks = [1, *range(step, number + 1, step)]
    return sorted(set(ranks)) if step > 1 else list(range(1, number + 1))


def _gridline(y: float, text: str) -> str:
    return (
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_LINE}"/>'
        + _text(_LEFT - 8, y + 4, text, "end")
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{_GREY}">'
        f"{html.escape(text)}</text>"
    )


def _svg(parts: Sequence[str], x_label: str, y_label: str) -> str:
    middle = _TOP + (_HEIGHT - _TOP - _BOTTOM) / 2
    labels = _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, x_label, "middle") + (
        f'<text transform="translate(14 {middle:.1f}) rotate(-90)" text-anchor="middle" '
        f'fill="{_GREY}">{html.escape(y_label)}</text>'
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" '
        f'aria-label="{html.escape(y_label)} by {html.escape(x_label)}">'
        + "".join(parts)
        + labels
        + "</svg>"
    )
