"""Values of JSON files that are written in an unusual form, and their usual form."""

import math
import re
from typing import Any

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?")
_WHOLE = re.compile(r"[+-]?\d{1,18}")
_FLAGS = {"0": 0, "1": 1, "false": 0, "true": 1, "no": 0, "yes": 1}
_LARGE = 1e300


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number and not a boolean."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return not isinstance(value, float) or math.isfinite(value) if abs(value) < _LARGE else False


def as_numbers(value: Any, *, depth: int = 2) -> Any:
    """Return text, or lists with text, as numbers; None if no text is a number.

    Args:
        value: a value of a JSON file.
        depth: levels of lists.
    """
    if isinstance(value, str):
        text = value.strip()
        if _WHOLE.fullmatch(text):
            return int(text)
        return float(text) if _NUMBER.fullmatch(text) and is_number(float(text)) else None
    if not isinstance(value, list) or not depth:
        return None
    found = [as_numbers(v, depth=depth - 1) for v in value]
    if all(new is None for new in found):
        return None
    return [v if new is None else new for v, new in zip(value, found, strict=True)]


def as_flag(value: Any) -> int | None:
    """Return a flag that is text, a boolean, a float or null as 0 or 1; None otherwise."""
    if value is None or isinstance(value, bool):
        return int(bool(value))
    if isinstance(value, float):
        return int(value) if value in (0, 1) else None
    return _FLAGS.get(value.strip().lower()) if isinstance(value, str) else None


def usable_polygons(segmentation: Any) -> list[list[float]]:
    """Return the polygons of at least three points whose coordinates are finite numbers."""
    if not isinstance(segmentation, list):
        return []
    return [
        polygon
        for polygon in segmentation
        if isinstance(polygon, list)
        and len(polygon) >= 6
        and len(polygon) % 2 == 0
        and all(map(is_number, polygon))
    ]


def whole_or_rounded(value: float) -> float:
    """Return a number with two decimals, without any if it is whole."""
    rounded = round(float(value), 2)
    return int(rounded) if rounded == int(rounded) else rounded
