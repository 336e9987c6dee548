"""Pictures of ground truth and predictions side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from detectron2.data.catalog import Metadata

from d2_seesaw.evaluation.analysis.error_kinds import KINDS
from d2_seesaw.evaluation.analysis.judging import Entry, JudgedDataset
from d2_seesaw.report.images.outlines import outlines
from d2_seesaw.report.images.selection import Selection
from d2_seesaw.report.images.styles import DASHES, caption, class_color

if TYPE_CHECKING:
    from detectron2.utils.visualizer import Visualizer

BANNER = 28
"""Height of the titles above the pictures and of the legend below them, in pixels."""

MOST_DETECTIONS = 100
"""Number of detections of an image that are shown, those with the highest scores."""

_FAINT = "#c8c8c8"
_ALPHA = 0.35


def draw_side_by_side(
    image: np.ndarray,
    dataset: JudgedDataset,
    index: int,
    selection: Selection | None = None,
    scale: float = 1.0,
) -> np.ndarray:
    """Draw the objects on the left and the detections on the right, with a legend.

    Objects and detections that are not selected are thin gray boxes. Without results, there are
    only the objects.

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
        halves = [_titled("ground truth", _draw(image, dataset, index, selection, scale, True))]
        if dataset.kinds is None:
            return halves[0]
        halves.append(_titled("predictions", _draw(image, dataset, index, selection, scale, False)))
        picture = np.hstack(halves)
        return np.vstack([picture, _legend(picture.shape[1])])


def _draw(
    image: np.ndarray,
    dataset: JudgedDataset,
    index: int,
    selection: Selection,
    scale: float,
    of_objects: bool,
) -> np.ndarray:
    from detectron2.utils.visualizer import Visualizer

    canvas = Visualizer(np.ascontiguousarray(image), Metadata(), scale=scale)
    entries = dataset.found(index, selection.min_score, MOST_DETECTIONS)
    if of_objects:
        entries = dataset.objects(index)
    selected, others = [], []
    for entry in entries:
        chosen = selection.includes(entry, is_object=of_objects)
        (selected if chosen else others).append(entry)
    for entry in others:
        canvas.draw_box(_corners(entry.box), alpha=0.6, edge_color=_FAINT, line_style=":")
    for entry in sorted(selected, key=lambda e: -e.box[2] * e.box[3]):  # small ones on top
        _draw_mask(canvas, entry)
    for entry in selected[::-1]:
        kind = entry.kind_at(selection.min_score, is_object=of_objects)
        _draw_box(canvas, entry, kind or KINDS[0])
    for entry in selected[::-1]:
        text = caption(entry, dataset.names, selection.min_score, is_object=of_objects)
        _draw_text(canvas, entry, text, image.shape[:2])
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
    style: Any = (0, DASHES[kind]) if DASHES[kind] else "-"
    color, box = class_color(entry.category), _corners(entry.box)
    # A dark outline makes light colors visible on a light image.
    canvas.draw_box(box, alpha=0.35, edge_color="black", line_style="-")
    canvas.draw_box(box, alpha=1.0, edge_color=color, line_style=style)


def _draw_text(canvas: Visualizer, entry: Entry, text: str, shape: Sequence[int]) -> None:
    left, top, _, _ = _corners(entry.box)
    font_size = canvas._default_font_size
    height = 1.6 * font_size / canvas.output.scale  # roughly, in pixels of the image
    position = (
        min(max(left, 0), shape[1] - 1),
        top - height if top > height else min(max(top, 0), shape[0] - 1),
    )
    color: Any = tuple(int(class_color(entry.category)[i : i + 2], 16) / 255 for i in (1, 3, 5))
    canvas.draw_text(text, position, color=color, horizontal_alignment="left")


def _corners(box: Sequence[float]) -> tuple[float, float, float, float]:
    x, y, w, h = box
    return x, y, x + w, y + h


def _titled(title: str, picture: np.ndarray) -> np.ndarray:
    def write(figure: Any) -> None:
        figure.text(8 / picture.shape[1], 0.5, title, va="center", fontsize=9)

    return np.vstack([_strip(picture.shape[1], write), picture])


def _legend(width: int) -> np.ndarray:
    from matplotlib.lines import Line2D

    def write(figure: Any) -> None:
        lines = [Line2D([], [], color="black", linewidth=1.5) for _ in DASHES]
        for line, dashes in zip(lines, DASHES.values(), strict=True):
            line.set_linestyle((0, dashes) if dashes else "-")
        figure.legend(
            lines,
            list(DASHES),
            loc="center left",
            ncols=len(lines),
            frameon=False,
            fontsize=8,
            handlelength=3.5,
        )

    return _strip(width, write)


def _strip(width: int, write: Any) -> np.ndarray:
    """Return a white strip on which ``write`` has written with matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 100, BANNER / 100), dpi=100, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    write(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:BANNER, :width, :3].copy()
