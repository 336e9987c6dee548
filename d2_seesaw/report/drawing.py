"""Charts drawn with matplotlib: inline SVG with tooltips for pages, image files for papers."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from d2_seesaw.utils.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 1000.0
"""Width of a chart that fills a page, in CSS pixels."""

COLUMN_WIDTH, DPI = 3.3, 300
"""Width of a figure in a two-column paper, in inches, and its resolution."""

_PIXELS = 72.0  # per inch: units of matplotlib's SVG
_CHARACTER, _KEY = 0.55, 3.0  # mean widths of a character and of a legend key, in font sizes
# Stand-ins that the SVG of a page replaces, so that it follows the color scheme of the reader.
_INK, _GRID, _SURFACE = "#1c2833", "#e1e5e8", "#fdfdfd"
_CSS_COLORS = {_INK: "currentColor", _GRID: "var(--line)", _SURFACE: "var(--surface)"}
_STYLE: dict[Any, Any] = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.autolimit_mode": "round_numbers",
    "axes.ymargin": 0,
    "text.parse_math": False,  # names are not formulas
    "text.usetex": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # part of matplotlib
    "svg.fonttype": "none",
    "svg.hashsalt": "d2_seesaw",
    "savefig.dpi": "figure",
    "savefig.bbox": "standard",
    "legend.frameon": False,
    "hatch.linewidth": 0.4,
}
_PAGE_STYLE: dict[Any, Any] = _STYLE | {
    "font.size": 12,
    **dict.fromkeys(("axes.labelsize", "xtick.labelsize", "ytick.labelsize"), 12),
    "legend.fontsize": 12,
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), _INK
    ),
    **dict.fromkeys((f"axes.spines.{side}" for side in ("left", "right", "top", "bottom")), False),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 0),
    **dict.fromkeys(("xtick.major.pad", "ytick.major.pad"), 8),
    "axes.grid": True,
    "grid.color": _GRID,
    "grid.linewidth": 1,
}
_PAPER_STYLE: dict[Any, Any] = _STYLE | {
    "figure.facecolor": "white",
    "font.size": 8,
    **dict.fromkeys(("axes.labelsize", "xtick.labelsize", "ytick.labelsize"), 8),
    "legend.fontsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@dataclass
class Canvas:
    """Axes to draw on, with the legend and the tooltips of what is drawn.

    Attributes:
        axes: The axes.
        is_page: Whether the chart is drawn for a page rather than for a paper.
        legend: Drawn elements and their labels, in order.
        tooltips: Texts for the points of each element, by its id in the SVG.
    """

    axes: Axes
    is_page: bool
    legend: list[tuple[Any, str]] = field(default_factory=list)
    tooltips: dict[str, Sequence[str]] = field(default_factory=dict)

    @property
    def ink(self) -> str:
        """Return the color of text and lines."""
        return _INK if self.is_page else "black"

    @property
    def surface(self) -> str:
        """Return the color of the background."""
        return _SURFACE if self.is_page else "white"

    def add_tooltips(self, artist: Artist, texts: Sequence[str]) -> None:
        """Give each point of an element a tooltip.

        Args:
            artist: A collection or a line with equal markers, or one patch.
            texts: One text for each of its points that is not ``nan``.
        """
        gid = f"tooltips-{len(self.tooltips)}"
        artist.set_gid(gid)
        self.tooltips[gid] = texts


@dataclass(frozen=True)
class Chart:
    """Chart that can be drawn for a page or for a paper.

    Attributes:
        label: Description for readers who cannot see the chart.
        draw: Function that draws it.
        height: Height on a page, in CSS pixels.
        paper_height: Height in a paper, in inches.
        width: Width on a page, in CSS pixels.
        paper_width: Width in a paper, in inches.
    """

    label: str
    draw: Callable[[Canvas], None]
    height: float
    paper_height: float = 2.4
    width: float = WIDTH
    paper_width: float = COLUMN_WIDTH


def save_chart(chart: Chart, path: str | os.PathLike[str]) -> None:
    """Write a chart for a paper, 3.3 inches wide unless it says otherwise, 300 dpi.

    A PNG file has the mark of this project.

    Args:
        chart: The chart.
        path: File to write; its suffix is the format, such as ``.png`` or ``.pdf``.
    """
    suffix = os.path.splitext(path)[1][1:]
    metadata = {
        "pdf": {"CreationDate": None},
        "svg": {"Date": None},
        "png": {"Software": "d2_seesaw"},
    }.get(suffix)
    with _drawn(chart, is_page=False) as (figure, _), atomic_write(path) as file:
        figure.savefig(file, format=suffix, metadata=metadata)


def render_svg(chart: Chart, prefix: str) -> str:
    """Return a chart as inline SVG for an HTML page.

    Every point has a tooltip. Text stays text. The chart has no width of its own, and its text and
    lines have the colors of the page. The same chart gives the same SVG.

    Args:
        chart: The chart.
        prefix: Start of all ids in the SVG; different for each chart of a page.
    """
    file = io.StringIO()
    with _drawn(chart, is_page=True) as (figure, canvas):
        absent = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=absent)
    root = ElementTree.fromstring(file.getvalue())
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {_local(name): value for name, value in element.attrib.items()}
        element.tail = None
        if element.tag != "text":
            element.text = None
    _insert_tooltips(root, canvas.tooltips)
    _isolate(root, prefix)
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "style": f"max-width: {1.1 * chart.width:.0f}px; stroke-linejoin: round",
        "role": "img",
        "aria-label": chart.label,
    }
    return ElementTree.tostring(root, encoding="unicode")


def contrast_color(background: str) -> str:
    """Return black or white, whichever contrasts more with a color written as ``#rrggbb``."""
    channels = (int(background[i : i + 2], 16) / 255 for i in (1, 3, 5))
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
    )
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue  # relative luminance of WCAG 2
    return "#ffffff" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "#000000"


def elide_middle(text: str, length: int) -> str:
    """Shorten a text to ``length`` characters. Its ends remain, because they distinguish paths."""
    if len(text) <= length:
        return text
    kept = max(1, length - 1)
    return text[: kept // 2] + "…" + text[len(text) - (kept - kept // 2) :]


@contextlib.contextmanager
def _drawn(chart: Chart, *, is_page: bool) -> Iterator[tuple[Figure, Canvas]]:
    # Not pyplot: it would choose a backend for the whole process and keep every figure.
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_PAGE_STYLE if is_page else _PAPER_STYLE):
        size = (chart.paper_width, chart.paper_height)
        if is_page:
            size = (chart.width / _PIXELS, chart.height / _PIXELS)
        figure = Figure(figsize=size, dpi=DPI, layout="constrained")
        canvas = Canvas(figure.add_subplot(), is_page)
        chart.draw(canvas)
        if canvas.legend:
            handles, labels = zip(*canvas.legend, strict=True)
            figure.legend(
                handles,
                labels,
                loc="outside upper center",
                ncols=_legend_columns(labels, _PIXELS * size[0] / matplotlib.rcParams["font.size"]),
                handlelength=1.6,
                handletextpad=0.4,
                columnspacing=1.0,
            )
        yield figure, canvas


def _legend_columns(labels: Sequence[str], width: float) -> int:
    """Return the most columns of a legend that fit into a width in font sizes."""
    for columns in range(len(labels), 1, -1):
        rows, longer = divmod(len(labels), columns)  # the first columns have one row more
        starts = [i * rows + min(i, longer) for i in range(columns + 1)]
        longest = [max(map(len, labels[a:b])) for a, b in itertools.pairwise(starts)]
        if sum(_CHARACTER * length + _KEY for length in longest) <= width:
            return columns
    return 1


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _insert_tooltips(root: ElementTree.Element, tooltips: dict[str, Sequence[str]]) -> None:
    groups = {element.get("id"): element for element in root.iter("g")}
    for gid, texts in tooltips.items():
        # A point is a <use> of its marker; a patch is its group.
        points = list(groups[gid].iter("use")) or [groups[gid]]
        for point, text in zip(points, texts, strict=True):
            ElementTree.SubElement(point, "title").text = text


def _isolate(root: ElementTree.Element, prefix: str) -> None:
    """Make ids unique, and remove rules that would change the rest of the page."""
    for defs in list(root.iter("defs")):
        for style in defs.findall("style"):
            defs.remove(style)
    defined = {child for defs in root.iter("defs") for child in defs.iter()}
    for element in root.iter():
        name = element.attrib.pop("id", "")
        for attribute, value in element.items():
            value = value.replace("url(#", f"url(#{prefix}")
            if attribute == "href":
                value = f"#{prefix}{value[1:]}"
            for color, css in _CSS_COLORS.items():
                value = value.replace(color, css)
            element.set(attribute, value)
        if name and element in defined:
            element.set("id", prefix + name)
