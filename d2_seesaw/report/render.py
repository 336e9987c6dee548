"""Parts of an HTML page: each function returns HTML, and escapes the text it is given.

A page is built from the inside out::

    write_text(path, page("Title", [section("Numbers", [cards({"images": 100})])]))
"""

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any

from d2_seesaw.data.frequency import GROUP_NAMES

GROUP_COLORS = {"r": "#c0392b", "c": "#d68910", "f": "#2471a3", "n/a": "#5d6d7e"}
"""Of the rare, common and frequent categories, and of others, wherever they are drawn."""

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: #1c2833;
  background: #f4f6f7; margin: 0; }
main { max-width: 1080px; margin: 0 auto; padding: 24px 16px 64px; }
h1 { font-size: 26px; margin: 8px 0 2px; } h2 { font-size: 19px; margin: 0 0 12px; }
h3 { font-size: 15px; margin: 18px 0 8px; }
section { background: #fff; border: 1px solid #e1e5e8; border-radius: 8px; padding: 20px;
  margin: 18px 0; }
p { margin: 6px 0 12px; max-width: 80ch; } .subtitle { color: #566573; overflow-wrap: anywhere; }
.cards { display: flex; flex-wrap: wrap; gap: 12px; margin: 0 0 8px; }
.card { border: 1px solid #e1e5e8; border-radius: 8px; padding: 10px 16px; min-width: 120px; }
.card b { display: block; font-size: 22px; font-variant-numeric: tabular-nums; }
.card span { color: #566573; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 5px 10px; border-bottom: 1px solid #e8ebed;
  vertical-align: top; overflow-wrap: break-word; }
th { color: #566573; font-weight: 600; vertical-align: bottom; }
.number { text-align: right; } td.number { white-space: nowrap; }
.tag { border-radius: 4px; padding: 1px 7px; color: #fff; font-size: 13px; white-space: nowrap; }
figure { margin: 0; } figcaption { font-size: 13px; color: #566573; overflow-wrap: anywhere; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(230px, 1fr)); gap: 14px; }
.grid img { width: 100%; height: 190px; object-fit: contain; background: #eceff1;
  border-radius: 6px; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(340px, 1fr)); gap: 20px;
  align-items: start; margin-bottom: 16px; }
.columns > div { min-width: 0; }
svg { width: 100%; height: auto; display: block; } svg text { font: 12px system-ui, sans-serif; }
details { margin: 12px 0; } summary { cursor: pointer; color: #2471a3; }
"""


def page(title: str, parts: Sequence[str], *, subtitle: str = "") -> str:
    """A whole page of parts, with its style inside."""
    heading = f"<h1>{html.escape(title)}</h1>"
    if subtitle:
        heading += f'<div class="subtitle">{html.escape(subtitle)}</div>'
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><main>{heading}\n" + "\n".join(parts) + "\n</main></body></html>\n"
    )


def section(title: str, parts: Sequence[str]) -> str:
    """A framed part of a page with a heading."""
    return f"<section><h2>{html.escape(title)}</h2>\n" + "\n".join(parts) + "</section>"


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{html.escape(text)}</p>"


def cards(numbers: Mapping[str, Any]) -> str:
    """A row of numbers, or short texts, with what they are."""
    boxes = (
        f'<div class="card"><b>{html.escape(formatted(value))}</b>'
        f"<span>{html.escape(name)}</span></div>"
        for name, value in numbers.items()
    )
    return f'<div class="cards">{"".join(boxes)}</div>'


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table; columns whose first entry is a number are aligned to the right.

    Entries that are a :class:`Tag` are coloured. A :class:`Numeral` counts as a number.
    """
    numeric = [isinstance(e, (int, float, Numeral)) for e in rows[0]] if rows else []
    numeric += [False] * (len(header) - len(numeric))
    head = "".join(_cell("th", name, n) for name, n in zip(header, numeric, strict=True))
    body = "".join(
        "<tr>" + "".join(_cell("td", e, n) for e, n in zip(row, numeric, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


class Tag(str):
    """A word on a coloured ground, for entries of tables.

    Args:
        text: the word.
        color: CSS colour of the ground; the word is white.
    """

    color: str
    __slots__ = ("color",)

    def __new__(cls, text: str, color: str) -> "Tag":
        """Make the word with its colour."""
        tag = super().__new__(cls, text)
        tag.color = color
        return tag


class Numeral(str):
    """A number as it shall be written, or what stands in its place, for entries of tables."""

    __slots__ = ()


def group_tag(group: str) -> Tag:
    """The name of a frequency group, ``"r"``, ``"c"``, ``"f"`` or ``"n/a"``, on its colour."""
    return Tag(GROUP_NAMES[group], GROUP_COLORS[group])


def details(summary: str, parts: Sequence[str]) -> str:
    """What is shown only on a click on its ``summary``."""
    body = "\n".join(parts)
    return f"<details><summary>{html.escape(summary)}</summary>\n{body}</details>"


def columns(parts: Sequence[str]) -> str:
    """Parts side by side, as many as there is room for."""
    cells = "".join(f"<div>{part}</div>" for part in parts)
    return f'<div class="columns">{cells}</div>'


def heading(title: str) -> str:
    """A heading within a section."""
    return f"<h3>{html.escape(title)}</h3>"


def picture_grid(pictures: Sequence[tuple[bytes, str | Sequence[str]]]) -> str:
    """JPEG files side by side, each with its caption: a text, or words of which some are tags."""
    figures = []
    for jpeg, caption in pictures:
        words = [caption] if isinstance(caption, str) else caption
        figures.append(
            f'<figure><img alt="{html.escape(" ".join(words))}" src="data:image/jpeg;base64,'
            f'{base64.b64encode(jpeg).decode()}"><figcaption>{" ".join(map(_inline, words))}'
            "</figcaption></figure>"
        )
    return f'<div class="grid">{"".join(figures)}</div>'


def formatted(value: Any) -> str:
    """A number with separated thousands or three digits; anything else as text."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3g}"


def _cell(tag: str, entry: Any, numeric: bool) -> str:
    text = _inline(entry)
    return f'<{tag} class="number">{text}</{tag}>' if numeric else f"<{tag}>{text}</{tag}>"


def _inline(entry: Any) -> str:
    text = html.escape(formatted(entry))
    if isinstance(entry, Tag):
        return f'<span class="tag" style="background:{entry.color}">{text}</span>'
    return text
