"""Columns that grow while parts are appended.

Many small arrays that are freed when they are joined leave gaps in the memory of the process, which
keeps them. So the columns of detections would take their size twice.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

_GROWTH = 1.125
"""Factor by which a full column grows. Linux moves large arrays without copying them."""


class GrowingColumns:
    """Columns of any lengths and dtypes, to which parts are appended in order."""

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}
        self._lengths: dict[str, int] = {}
        self._are_shared = False

    @property
    def lengths(self) -> dict[str, int]:
        """Return the lengths of the columns by name, empty before the first part."""
        return dict(self._lengths)

    def append(self, part: Mapping[str, np.ndarray]) -> None:
        """Add arrays to the ends of the columns of the same names.

        Args:
            part: the same names as in the first part, each with the shape after the first axis that
                its column has.
        """
        if not self._arrays:
            self._arrays = dict(part)
            self._lengths = {name: len(array) for name, array in part.items()}
            self._are_shared = True  # with the caller
            return
        for name, array in part.items():
            start = self._lengths[name]
            self._lengths[name] = end = start + len(array)
            self._reserve(name, end, array.dtype)
            self._arrays[name][start:end] = array
        self._are_shared = False

    def add_column(self, name: str, values: np.ndarray) -> None:
        """Add a column to all parts so far. The values are copied."""
        self._arrays[name] = values.copy()
        self._lengths[name] = len(values)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the columns, without copying them. They do not change if parts are appended."""
        if not self._are_shared:
            for name, length in self._lengths.items():
                self._resize(name, length)
        self._are_shared = True
        return dict(self._arrays)

    def _reserve(self, name: str, length: int, dtype: np.dtype) -> None:
        """Make room for ``length`` values, of the old and a new dtype."""
        old = self._arrays[name]
        common = np.result_type(old.dtype, dtype)
        if common == old.dtype and not self._are_shared:
            if length > len(old):
                self._resize(name, max(length, int(_GROWTH * len(old))))
            return
        new = np.empty((max(length, len(old)), *old.shape[1:]), common)
        new[: len(old)] = old
        self._arrays[name] = new

    def _resize(self, name: str, length: int) -> None:
        array = self._arrays[name]
        if len(array) != length:
            # No other object refers to the memory, see _are_shared.
            array.resize((length, *array.shape[1:]), refcheck=False)
