"""Pieces of charts in inline SVG, and what keeps their text from overlapping."""

import html
from collections.abc import Sequence
from typing import NamedTuple

WIDTH = 1000.0
"""Units across a chart that is as wide as the page."""

GRAY, LINE, DARK = "#566573", "#e1e5e8", "#1c2833"
ROW = 20.0
"""Height of a line of text with the space around it."""

_CHARACTER = 7.2  # mean width of the page's 12 pixel font, from above
_SWATCH = 18.0
_LONGEST_KEY = 60


class Key(NamedTuple):
    """An entry of a legend.

    Attributes:
        name: What it stands for.
        color: CSS colour.
        shape: "dot", "line", "dashed" or "box".
    """

    name: str
    color: str
    shape: str = "dot"


def text_width(text: str) -> float:
    """About how wide a text is drawn, rather too much than too little."""
    return _CHARACTER * len(text)


def shortened(text: str, width: float) -> str:
    """The text, ``cut`` to a width."""
    return cut(text, int(width / _CHARACTER + 1e-9))


def cut(text: str, characters: int) -> str:
    """At most so many characters of a text, without its middle: ends tell paths apart."""
    if len(text) <= characters:
        return text
    kept = max(1, characters - 1)
    return text[: kept // 2] + "…" + text[len(text) - (kept - kept // 2) :]


def ink(ground: str) -> str:
    """White or dark, whichever reads better on a colour written as ``#rrggbb``."""
    red, green, blue = (_linear(int(ground[i : i + 2], 16) / 255) for i in (1, 3, 5))
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue  # of WCAG 2
    return "#ffffff" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "#000000"


def text(x: float, y: float, content: str, anchor: str, *, color: str = GRAY) -> str:
    """A text that starts, is centred, or ends at x."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}">'
        f"{html.escape(content)}</text>"
    )


def upright(x: float, y: float, content: str) -> str:
    """A text that reads from below to above, centred at y."""
    return (
        f'<text transform="translate({x:.0f} {y:.1f}) rotate(-90)" text-anchor="middle" '
        f'fill="{GRAY}">{html.escape(content)}</text>'
    )


def line(x1: float, y1: float, x2: float, y2: float, *, color: str = LINE, more: str = "") -> str:
    """A straight line; ``more`` are attributes, such as ``stroke-width="2"``."""
    return (
        f'<line x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}" stroke="{color}"'
        f"{' ' * bool(more)}{more}/>"
    )


def titled(element: str, attributes: str, label: str) -> str:
    """An element that shows its label when the pointer rests on it."""
    return f"<{element} {attributes}><title>{html.escape(label)}</title></{element}>"


def legend(keys: Sequence[Key], left: float, right: float, top: float) -> tuple[str, float]:
    """Keys in as many rows as they need between ``left`` and ``right``.

    Returns:
        The SVG, and the height of the rows.
    """
    x, y, parts = left, top, []
    for key in keys:
        name = shortened(key.name, _LONGEST_KEY * _CHARACTER)
        width = _SWATCH + 6 + text_width(name) + 18
        if x > left and x + width > right:
            x, y = left, y + ROW
        parts.append(_swatch(key, x, y + 10) + text(x + _SWATCH + 6, y + 14, name, "start"))
        x += width
    return "".join(parts), (y - top + ROW if keys else 0.0)


def svg(parts: Sequence[str], *, width: float, height: float, label: str) -> str:
    """A chart of its parts, which grows with the page up to its own width."""
    limit = "" if width == WIDTH else f' style="max-width:{width:.0f}px"'
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}"{limit} role="img" '
        f'aria-label="{html.escape(label)}">' + "".join(parts) + "</svg>"
    )


def _swatch(key: Key, x: float, y: float) -> str:
    if key.shape == "dot":
        return f'<circle cx="{x + 11:.1f}" cy="{y:.1f}" r="5" fill="{key.color}"/>'
    if key.shape == "box":
        return f'<rect x="{x + 4:.1f}" y="{y - 6:.1f}" width="12" height="12" fill="{key.color}"/>'
    dashes = ' stroke-dasharray="5 3"' if key.shape == "dashed" else ""
    return line(x, y, x + _SWATCH, y, color=key.color, more=f'stroke-width="2"{dashes}')


def _linear(channel: float) -> float:
    return channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4
