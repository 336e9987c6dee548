"""Lines through points, as inline SVG."""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from d2_seesaw.report.svg.axes import Axis, linear_axis
from d2_seesaw.report.svg.frame import BOTTOM, LEFT, RIGHT, Frame
from d2_seesaw.report.svg.marks import GRAY, Key, legend, line, svg, titled

_WIDTH, _HEIGHT, _TOP = 520.0, 430.0, 12.0


class Series(NamedTuple):
    """A line of a line chart.

    Attributes:
        name: In the legend.
        color: CSS colour.
        points: x, y and what is shown when the pointer rests there; where either number is ``nan``
            the line has a gap.
        dashed: Whether the line is dashed, and its points are hollow.
    """

    name: str
    color: str
    points: Sequence[tuple[float, float, str]]
    dashed: bool = False


def line_chart(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    diagonal: bool = False,
    nothing: str = "nothing to show",
) -> str:
    """Lines over two linear axes that include zero.

    Args:
        series: what is drawn.
        x_label: of the horizontal axis.
        y_label: of the vertical axis.
        diagonal: whether both axes run from 0 to 1, with a dotted line where both are equal, as in
            a reliability diagram.
        nothing: what is written if there is no point.
    """
    keys = [Key(s.name, s.color, "dashed" if s.dashed else "line") for s in series]
    head, height = legend(keys, LEFT, _WIDTH - RIGHT, 0.0)
    points = [p for s in series for p in s.points if _is_known(p)]
    frame = Frame(
        x=_axis([x for x, _, _ in points], diagonal),
        y=_axis([y for _, y, _ in points], diagonal),
        left=LEFT,
        right=_WIDTH - RIGHT,
        top=height + _TOP,
        bottom=height + _HEIGHT - BOTTOM,
    )
    parts = [head, frame.grid(x_label, y_label)]
    if diagonal:
        ends = (*frame.at(0.0, 0.0), *frame.at(1.0, 1.0))
        parts.append(line(*ends, color=GRAY, more='stroke-dasharray="2 3"'))
    parts += [_line(frame, s) for s in series]
    if not points:
        parts.append(frame.nothing(nothing))
    label = f"{y_label} by {x_label}"
    return svg(parts, width=_WIDTH, height=height + _HEIGHT, label=label)


def _axis(values: Sequence[float], diagonal: bool) -> Axis:
    return linear_axis([0.0, 1.0] if diagonal else values)


def _is_known(point: tuple[float, float, str]) -> bool:
    return not (math.isnan(point[0]) or math.isnan(point[1]))


def _line(frame: Frame, series: Series) -> str:
    dashes = ' stroke-dasharray="5 3"' if series.dashed else ""
    fill = "#fff" if series.dashed else series.color
    paths, dots = [], []
    for known, run in itertools.groupby(series.points, key=_is_known):
        if not known:
            continue
        points = list(run)
        places = [frame.at(x, y) for x, y, _ in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        paths.append(
            f'<polyline points="{path}" fill="none" stroke="{series.color}" stroke-width="2"'
            f"{dashes}/>"
        )
        for (x, y), (_, _, label) in zip(places, points, strict=True):
            look = f'r="4" fill="{fill}" stroke="{series.color}" stroke-width="1.5"'
            dots.append(titled("circle", f'cx="{x:.1f}" cy="{y:.1f}" {look}', label))
    return "".join(paths + dots)
