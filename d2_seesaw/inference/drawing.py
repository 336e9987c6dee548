"""Drawings of predictions by Detectron2's visualizer, with one color per class.

Matplotlib is imported when something is drawn, because that takes as long as a training step.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import cv2
import numpy as np
from detectron2.data.catalog import Metadata
from detectron2.structures import Instances

logger = logging.getLogger(__name__)


def palette(count: int) -> list[tuple[int, ...]]:
    """Return ``count`` RGB colors with evenly spread hues, one per class."""
    hsv = np.full((1, count, 3), 230, np.uint8)
    hsv[0, :, 0] = np.arange(count) * 180 // count
    return [tuple(int(c) for c in color) for color in cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0]]


def drawing_metadata(
    class_names: Sequence[str], colors: Sequence[Sequence[int]] | None = None
) -> Metadata:
    """Build metadata for the visualizer that are not in Detectron2's catalog.

    Args:
        class_names: Names in the order of the model's classes.
        colors: RGB in [0, 255] of each class; by default :func:`palette`.
    """
    colors = [tuple(color) for color in colors] if colors else palette(len(class_names))
    names = list(class_names)
    return Metadata(
        thing_classes=names, thing_colors=colors, stuff_classes=names, stuff_colors=colors
    )


def enlargement(size: tuple[int, int], min_side: int) -> float:
    """Return the factor, at least 1, that makes the short side ``min_side`` pixels or more."""
    return max(1.0, min_side / min(size))


@contextmanager
def fonts_for(names: Iterable[str]) -> Iterator[None]:
    """Draw with an installed font that has the characters of the names, such as Chinese ones.

    Matplotlib's own font is used where it has them. A warning tells once if no font has them.
    """
    import matplotlib as mpl

    fonts = [
        *_fallback_fonts("".join(sorted(set("".join(names))))),
        *mpl.rcParams["font.sans-serif"],
    ]
    with mpl.rc_context({"font.family": "sans-serif", "font.sans-serif": fonts}):
        yield


@cache
def _fallback_fonts(characters: str) -> tuple[str, ...]:
    """Return the installed font that has most of what Matplotlib's own lacks, if it lacks some."""
    from matplotlib import font_manager

    default = font_manager.findfont(font_manager.FontProperties(family=["sans-serif"]))
    missing = _lacking(default, characters)
    if not missing:
        return ()
    lacking = {font.fname: missing for font in font_manager.fontManager.ttflist}
    lacking = {file: _lacking(file, missing) for file in lacking}
    best = min(lacking, key=lambda file: len(lacking[file]), default=default)
    if rest := lacking.get(best, missing):
        logger.warning(
            "No installed font has %d characters of the class names, such as %r; pictures show "
            "boxes instead. Fonts such as Noto Sans CJK have them",
            len(rest),
            rest[:5],
        )
    if lacking.get(best) == missing:
        return ()
    families = [f.name for f in font_manager.fontManager.ttflist if f.fname == best]
    return ("DejaVu Sans", families[0])


def _lacking(file: str, characters: str) -> str:
    from matplotlib import font_manager

    try:
        known = font_manager.get_font(file).get_charmap()
    except (OSError, RuntimeError):  # a font that FreeType cannot read
        return characters
    return "".join(c for c in characters if ord(c) not in known and not c.isspace())


def _canvas(image: np.ndarray, metadata: Any, scale: float) -> Any:
    from detectron2.utils.visualizer import ColorMode, Visualizer

    return Visualizer(image, metadata, scale=scale, instance_mode=ColorMode.SEGMENTATION)


def draw_instances(
    image: np.ndarray, instances: Instances, metadata: Any, scale: float = 1.0
) -> np.ndarray:
    """Draw boxes, masks, names and scores.

    Args:
        image: ``(H, W, 3)`` RGB.
        instances: Instances on the CPU, in coordinates of the image.
        metadata: Names and colors of things.
        scale: Factor by which the result is larger.

    Returns:
        RGB image, ``scale`` times as large.
    """
    canvas = _canvas(image, metadata, scale)
    with fonts_for(metadata.thing_classes):
        return canvas.draw_instance_predictions(instances).get_image()


def draw_label_map(
    image: np.ndarray, labels: np.ndarray, metadata: Any, scale: float = 1.0
) -> np.ndarray:
    """Draw the classes of all pixels over an image, half transparent, with their names.

    Args:
        image: ``(H, W, 3)`` RGB.
        labels: ``(H, W)`` classes.
        metadata: Names and colors of stuff.
        scale: Factor by which the result is larger.

    Returns:
        RGB image, ``scale`` times as large.
    """
    canvas = _canvas(image, metadata, scale)
    with fonts_for(metadata.stuff_classes):
        return canvas.draw_sem_seg(labels, alpha=0.5).get_image()
