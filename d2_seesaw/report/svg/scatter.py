"""Points at two values, as inline SVG."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from d2_seesaw.report.svg.axes import linear_axis, log_axis
from d2_seesaw.report.svg.frame import BOTTOM, LEFT, RIGHT, Frame
from d2_seesaw.report.svg.marks import DARK, WIDTH, Key, legend, svg, text, titled

_HEIGHT, _TOP = 360.0, 12.0
_STRIP = 90.0  # beside the axes, for points whose x nobody knows


class Spot(NamedTuple):
    """A point of a scatter chart.

    Attributes:
        x: ``nan`` if unknown: it then lies beside the axes.
        y: ``nan`` if there is none: it is then left out.
        color: CSS colour.
        label: What is shown when the pointer rests on it.
    """

    x: float
    y: float
    color: str
    label: str


def scatter_chart(
    spots: Sequence[Spot],
    *,
    x_label: str,
    y_label: str,
    line: Sequence[Spot] = (),
    keys: Sequence[Key] = (),
    log_x: bool = False,
    nothing: str = "nothing to show",
) -> str:
    """Points over a horizontal axis, linear or logarithmic, and a linear vertical one with zero.

    Args:
        spots: what is drawn. On a logarithmic axis 0 has a place of its own.
        x_label: of the horizontal axis.
        y_label: of the vertical axis.
        line: points that are joined, over the others, from left to right; their x is known.
        keys: the legend.
        log_x: whether the horizontal axis is logarithmic.
        nothing: what is written if there is no point.
    """
    shown = [spot for spot in spots if not math.isnan(spot.y)]
    known = [spot for spot in shown if not math.isnan(spot.x)]
    unknown = [spot for spot in shown if math.isnan(spot.x)]
    head, height = legend(keys, LEFT, WIDTH - RIGHT, 0.0)
    to_x = log_axis if log_x else linear_axis
    frame = Frame(
        x=to_x([s.x for s in (*known, *line)]),
        y=linear_axis([s.y for s in (*shown, *line)]),
        left=LEFT,
        right=WIDTH - RIGHT - _STRIP * bool(unknown),
        top=height + _TOP,
        bottom=height + _HEIGHT - BOTTOM,
    )
    parts = [head, frame.grid(x_label, y_label)]
    parts += [_circle(*frame.at(s.x, s.y), s, 'r="4" fill-opacity="0.65"') for s in known]
    for index, spot in enumerate(unknown):
        _, y = frame.at(1.0, spot.y)
        x = frame.right + _STRIP * (0.2 + 0.7 * (index + 0.5) / len(unknown))
        parts.append(_circle(x, y, spot, 'r="4" fill-opacity="0.65"'))
    if unknown:
        middle = frame.right + 0.55 * _STRIP
        parts.append(text(middle, frame.bottom + 18, "unknown", "middle"))
    if line:
        parts.append(_joined(frame, line))
    if not shown:
        parts.append(frame.nothing(nothing))
    label = f"{y_label} by {x_label}"
    return svg(parts, width=WIDTH, height=height + _HEIGHT, label=label)


def _circle(x: float, y: float, spot: Spot, more: str) -> str:
    attributes = f'cx="{x:.1f}" cy="{y:.1f}" {more} fill="{spot.color}"'
    return titled("circle", attributes, spot.label)


def _joined(frame: Frame, line: Sequence[Spot]) -> str:
    places = [frame.at(spot.x, spot.y) for spot in line]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = (_circle(x, y, spot, 'r="2.5"') for (x, y), spot in zip(places, line, strict=True))
    stroke = f'<polyline points="{path}" fill="none" stroke="{DARK}" stroke-width="2"/>'
    return stroke + "".join(dots)
