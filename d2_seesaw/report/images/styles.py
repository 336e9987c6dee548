"""Colors of classes, and line styles of kinds of errors, in pages and pictures."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

from d2_seesaw.evaluation.analysis.error_kinds import (
    BACKGROUND,
    CONFUSED,
    DUPLICATE,
    LOCALIZATION,
    MISSED,
    NOT_JUDGED,
    RIGHT,
)
from d2_seesaw.evaluation.analysis.judging import Entry

_GOLDEN_ANGLE = 0.381966  # of a turn: the next hue is far from all before
_LIGHTNESS = (0.62, 0.5, 0.74)  # by turns: with many classes, hues alone come close

# Lengths of dashes and gaps, in line widths; () is a solid line.
DASHES: dict[str, tuple[float, ...]] = {
    RIGHT: (),
    CONFUSED: (6, 2),
    MISSED: (3, 2),
    DUPLICATE: (1, 1.5),
    LOCALIZATION: (6, 2, 1, 2),
    BACKGROUND: (2, 3),
    NOT_JUDGED: (1, 4),
}
DESCRIPTIONS = {
    RIGHT: "object with its class, or detection that matches an object of its class (IoU >= 0.5)",
    CONFUSED: "object that is taken for another class, or detection on an object of another class",
    MISSED: "object without a detection",
    DUPLICATE: "further detection of an object that is already found",
    LOCALIZATION: "detection that overlaps an object of its class too little (IoU < 0.5)",
    BACKGROUND: "detection on no object",
    NOT_JUDGED: "not counted by LVIS: a class that was not verified in the image, or an ignored "
    "object",
}


def class_color(index: int) -> str:
    """Return the color of a class as ``#rrggbb``. It does not depend on the number of classes."""
    hue = index * _GOLDEN_ANGLE % 1
    rgb = colorsys.hls_to_rgb(hue, _LIGHTNESS[index % len(_LIGHTNESS)], 0.9)
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in rgb)


def caption(entry: Entry, names: Sequence[str], min_score: float, *, is_object: bool) -> str:
    """Return the text beside an object or detection, such as ``cup 0.83, is mug``.

    Args:
        entry: The object or detection.
        names: Names of the categories.
        min_score: Lowest score of the detections that are shown.
        is_object: Whether it is an object.
    """
    kind, text = entry.kind_at(min_score, is_object=is_object), names[entry.category]
    if not is_object:
        text += f" {entry.score or 0:.2f}"
    if kind == CONFUSED and entry.other is not None:
        text += f" \u2192 {names[entry.other]}" if is_object else f", is {names[entry.other]}"
    elif kind not in ("", RIGHT):
        text += f", {kind}"
    return text + ", crowd" * entry.crowd
