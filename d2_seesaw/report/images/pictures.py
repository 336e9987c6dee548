"""Pictures of ground truth and predictions side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import numpy as np
from detectron2.data.catalog import Metadata

from d2_seesaw.evaluation.analysis.error_kinds import KINDS
from d2_seesaw.evaluation.analysis.judging import Entry, JudgedDataset
from d2_seesaw.report.images.outlines import outlines
from d2_seesaw.report.images.selection import Selection
from d2_seesaw.report.images.styles import DASHES, caption, class_color

if TYPE_CHECKING:
    from detectron2.utils.visualizer import Visualizer
    from matplotlib.figure import Figure

BANNER = 28
"""Height of the titles above the pictures and of the legend below them, in pixels."""

MOST_DETECTIONS = 100
"""Number of detections of an image that are shown: those that pass the filters come first, and
among them those with the highest scores."""

_FAINT = "#c8c8c8"
_ALPHA = 0.35
_FONT_SIZE = 13  # pixels, at least
_WIDE = 0x1100  # characters from here on, such as Chinese ones, are as wide as high


def draw_side_by_side(
    image: np.ndarray,
    dataset: JudgedDataset,
    index: int,
    selection: Selection | None = None,
    scale: float = 1.0,
) -> np.ndarray:
    """Draw the objects on the left and the detections on the right, with a legend.

    Objects and detections that are not selected are thin gray boxes. Without results, there are
    only the objects. The title of the predictions says if more pass the filters than are shown.

    Args:
        image: ``(H, W, 3)`` RGB.
        dataset: The annotations and detections.
        index: Index of the image in ``dataset.table.images``.
        selection: What to show; everything by default.
        scale: Factor by which each picture is larger than the image.

    Returns:
        ``(H', W', 3)`` RGB.
    """
    import matplotlib as mpl

    selection = selection or Selection()
    with mpl.rc_context({"text.parse_math": False}):  # names are not formulas
        selected, others = _objects(dataset, index, selection)
        objects = _draw(image, dataset, selected, others, selection, scale, of_objects=True)
        left = _titled("ground truth", objects)
        if dataset.kinds is None:
            return left
        selected, others, passing, _ = selection.detections(dataset, index, MOST_DETECTIONS)
        found = _draw(image, dataset, selected, others, selection, scale, of_objects=False)
        more = f": the best {len(selected)} of {passing}" if passing > len(selected) else ""
        picture = np.hstack([left, _titled(f"predictions{more}", found)])
        return np.vstack([picture, _legend(picture.shape[1])])


def _objects(
    dataset: JudgedDataset, index: int, selection: Selection
) -> tuple[list[Entry], list[Entry]]:
    """Return the selected objects of an image, and the others."""
    parts: tuple[list[Entry], list[Entry]] = ([], [])
    for entry in dataset.objects(index):
        parts[not selection.includes(entry, is_object=True)].append(entry)
    return parts


def _draw(
    image: np.ndarray,
    dataset: JudgedDataset,
    selected: Sequence[Entry],
    others: Sequence[Entry],
    selection: Selection,
    scale: float,
    *,
    of_objects: bool,
) -> np.ndarray:
    from detectron2.utils.visualizer import Visualizer

    canvas = Visualizer(np.ascontiguousarray(image), Metadata(), scale=scale)
    for entry in others:
        canvas.draw_box(_corners(entry.box), alpha=0.6, edge_color=_FAINT, line_style=":")
    for entry in sorted(selected, key=lambda e: -e.box[2] * e.box[3]):  # small ones on top
        _draw_mask(canvas, entry)
    for entry in selected[::-1]:
        kind = entry.kind_at(selection.min_score, is_object=of_objects)
        _draw_box(canvas, entry, kind or KINDS[0])
    texts = [
        caption(entry, dataset.names, selection.min_score, is_object=of_objects)
        for entry in selected
    ]
    _draw_names(canvas, selected, texts, image.shape[:2])
    return canvas.output.get_image()


def _draw_mask(canvas: Visualizer, entry: Entry) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    rings = outlines(entry.segmentation, 0.3) if entry.segmentation else []
    if not rings:
        return
    paths = [Path(np.vstack([ring, ring[:1]]), closed=True) for ring in rings]
    color = class_color(entry.category)
    patch = PathPatch(
        Path.make_compound_path(*paths), facecolor=color, edgecolor="none", alpha=_ALPHA
    )
    canvas.output.ax.add_patch(patch)


def _draw_box(canvas: Visualizer, entry: Entry, kind: str) -> None:
    from matplotlib.patches import Rectangle

    x, y, w, h = entry.box
    width = _pixels(canvas, max(2.0, min(canvas.output.height, canvas.output.width) / 500))
    # A dark outline makes light colors visible on a light image.
    for color, wider, dashes in (
        ("black", 1.8, ()),
        (class_color(entry.category), 1, DASHES[kind]),
    ):
        box = Rectangle((x, y), w, h, fill=False, edgecolor=color, linewidth=wider * width)
        box.set_linestyle((0, dashes) if dashes else "-")
        box.set_alpha(0.5 if color == "black" else 1)
        canvas.output.ax.add_patch(box)


def _pixels(canvas: Visualizer, number: float) -> float:
    """Return pixels of the picture in points."""
    return number * 72 / canvas.output.dpi


def _draw_names(
    canvas: Visualizer, entries: Sequence[Entry], texts: Sequence[str], shape: Sequence[int]
) -> None:
    scale, taken = canvas.output.scale, []
    size = max(_FONT_SIZE, max(shape) * scale / 110)  # pixels of the picture
    for entry, text in zip(entries, texts, strict=True):
        length = sum(1.0 if ord(c) > _WIDE else 0.62 for c in text) * size / scale
        place = _free_place(entry.box, (length, 1.5 * size / scale), taken, shape)
        taken.append(place)
        canvas.draw_text(
            text,
            (place[0], place[1] + 0.2 * size / scale),
            font_size=_pixels(canvas, size) / scale,
            color=class_color(entry.category),
            horizontal_alignment="left",
        )


def _free_place(
    box: Sequence[float],
    size: tuple[float, float],
    taken: Sequence[tuple[float, float, float, float]],
    shape: Sequence[int],
) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of a name at its box, where no other name is if possible.

    Args:
        box: Left, top, width and height of the box.
        size: Width and height of the name.
        taken: Places of other names.
        shape: Height and width of the image.
    """
    x, y, w, h = box
    width, height = size
    places = []
    for top in (y - height, y, y + h, y + h - height, *(y + i * height for i in range(1, 8))):
        for left in (x, x + w - width):
            left = max(0.0, min(left, shape[1] - width))
            top = max(0.0, min(top, shape[0] - height))
            places.append((left, top, left + width, top + height))
    free = (p for p in places if not any(_overlap(p, other) for other in taken))
    return next(free, places[0])


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _corners(box: Sequence[float]) -> tuple[float, float, float, float]:
    x, y, w, h = box
    return x, y, x + w, y + h


def _titled(title: str, picture: np.ndarray) -> np.ndarray:
    return np.vstack([_title(title, picture.shape[1]), picture])


@lru_cache(maxsize=32)
def _title(title: str, width: int) -> np.ndarray:
    return _strip(width, lambda figure: figure.text(8 / width, 0.5, title, va="center", fontsize=9))


@cache
def _legend(width: int) -> np.ndarray:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color="black", linewidth=1.5) for _ in DASHES]
    for line, dashes in zip(lines, DASHES.values(), strict=True):
        line.set_linestyle((0, dashes) if dashes else "-")
    options = {"frameon": False, "fontsize": 8, "handlelength": 3.5}
    options |= {"loc": "center left", "ncols": len(lines)}
    return _strip(width, lambda figure: figure.legend(lines, list(DASHES), **options))


def _strip(width: int, write: Callable[[Figure], object]) -> np.ndarray:
    """Return a white strip on which ``write`` has written with matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 100, BANNER / 100), dpi=100, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    write(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:BANNER, :width, :3].copy()
