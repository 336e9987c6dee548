"""Columns of several parts as one, without a moment at which both exist in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def join_columns(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The columns of all parts, in order, as by ``np.concatenate``.

    Every part is emptied, and each array given up once it is copied: what nothing else holds is
    freed while the result grows.

    Args:
        parts: at least one; all have the same columns.
    """
    return {name: _joined([part.pop(name) for part in parts]) for name in list(parts[0])}


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    column = empty_column([(part.dtype, part.shape) for part in parts])
    parts.reverse()
    start = 0
    while parts:
        part = parts.pop()
        column[start : start + len(part)] = part
        start += len(part)
    return column


def empty_column(layouts: Sequence[tuple[np.dtype, tuple[int, ...]]]) -> np.ndarray:
    """Uninitialised, for parts of the given types and shapes one below the other."""
    dtypes, shapes = zip(*layouts, strict=True)
    return np.empty((sum(s[0] for s in shapes), *shapes[0][1:]), np.result_type(*dtypes))


def layouts_of(columns: Mapping[str, np.ndarray]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of each column, as JSON can say them."""
    return {name: (column.dtype.str, column.shape) for name, column in columns.items()}
