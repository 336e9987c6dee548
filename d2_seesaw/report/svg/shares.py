"""What wholes are made of, as bars of inline SVG."""

from collections.abc import Sequence
from typing import NamedTuple

from d2_seesaw.report.svg.marks import (
    DARK,
    WIDTH,
    Key,
    ink,
    legend,
    line,
    shortened,
    svg,
    text,
    text_width,
    titled,
)

_BAR, _STEP, _GAP = 26.0, 34.0, 12.0
_TOP, _BOTTOM, _RIGHT = 8.0, 30.0, 20.0
_WIDEST_NAME = 260.0


class Share(NamedTuple):
    """A part of a bar.

    Attributes:
        name: What it is, in the legend too.
        value: At least 0.
        color: CSS colour as ``#rrggbb``.
    """

    name: str
    value: float
    color: str


class ShareBar(NamedTuple):
    """A bar.

    Attributes:
        name: On its left.
        note: On its right.
        shares: Its parts, from left to right.
        gap: Whether there is a space above it, as before a new group of bars.
    """

    name: str
    note: str
    shares: Sequence[Share]
    gap: bool = False


def share_bars(bars: Sequence[ShareBar], *, label: str, nothing: str = "nothing to show") -> str:
    """Horizontal bars of equal length, one below the other, each divided among its parts.

    Args:
        bars: what is drawn. A bar whose parts are all 0 is empty, and says ``nothing``.
        label: what the chart shows, for those who cannot see it.
        nothing: what an empty bar says, or the chart without bars.
    """
    names = [shortened(bar.name, _WIDEST_NAME) for bar in bars]
    left = 24 + max(map(text_width, names), default=0.0)
    right = WIDTH - 20 - max((text_width(bar.note) for bar in bars), default=_RIGHT)
    keys = {s.name: Key(s.name, s.color, "box") for bar in bars for s in bar.shares}
    head, y = legend(list(keys.values()), left, WIDTH, 0.0)
    y += _TOP
    top, parts = y, []
    for name, bar in zip(names, bars, strict=True):
        y += _GAP * bar.gap
        parts.append(text(left - 10, y + _BAR / 2 + 4, name, "end", color=DARK))
        parts.append(text(right + 10, y + _BAR / 2 + 4, bar.note, "start"))
        parts.append(_bar(bar, left, right, y, nothing))
        y += _STEP
    grid = []
    for percent in range(0, 101, 20):
        x = left + percent / 100 * (right - left)
        grid.append(line(x, top - 4, x, y) + text(x, y + 16, f"{percent}%", "middle"))
    if not bars:
        grid = [text(WIDTH / 2, top + 16, nothing, "middle")]
    return svg([head, *grid, *parts], width=WIDTH, height=y + _BOTTOM, label=label)


def _bar(bar: ShareBar, left: float, right: float, y: float, nothing: str) -> str:
    total = sum(share.value for share in bar.shares)
    if not total:
        return text(left + 8, y + _BAR / 2 + 4, nothing, "start")
    x, parts = left, []
    for share in bar.shares:
        part = share.value / total
        width = part * (right - left)
        place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{_BAR:.0f}"'
        written = f"{part:.0%}"
        title = f"{bar.name}: {share.name}, {share.value:,} of {total:,} ({part:.1%})"
        if share.value:
            parts.append(titled("rect", f'{place} fill="{share.color}"', title))
        if width >= text_width(written) + 6:
            middle = x + width / 2
            color = ink(share.color)
            # The rectangle below shows its title, so the words must let the pointer through.
            number = text(middle, y + _BAR / 2 + 4, written, "middle", color=color)
            parts.append(number.replace("<text", '<text pointer-events="none"', 1))
        x += width
    return "".join(parts)
