"""Stable orders of many detections, by radix sort.

NumPy sorts 16-bit integers by radix, about ten times as fast as it sorts floats or longer integers.
Longer keys are sorted by one 16-bit digit after the other, from the lowest to the highest.

Shapes in this module:
    N: values
"""

from __future__ import annotations

import numpy as np

_DIGIT_BITS = 16


def stable_order(*keys: np.ndarray) -> np.ndarray:
    """Return the ``(N,)`` stable order by several keys, the last one first, as ``np.lexsort``.

    Args:
        keys: At least one ``(N,)`` array of integers that are not negative.
    """
    order: np.ndarray | None = None
    for key in keys:
        highest = int(key.max(initial=0))
        for shift in range(0, highest.bit_length(), _DIGIT_BITS):
            own = key if order is None else key[order]
            digit = (own >> own.dtype.type(shift)).astype(np.uint16)
            step = np.argsort(digit, kind="stable")
            order = step if order is None else order[step]
    return np.arange(len(keys[0])) if order is None else order


def descending_keys(scores: np.ndarray) -> np.ndarray:
    """Return ``(N,)`` unsigned integers that ascend as scores descend.

    Equal scores, which 0.0 and -0.0 are, have equal keys. NaN comes last, as in a sort of the
    negative scores.

    Args:
        scores: ``(N,)`` floats or integers.
    """
    if scores.dtype.kind != "f":
        scores = scores.astype(np.float64)
    wide = "4" if scores.itemsize <= 4 else "8"
    negative = np.negative(scores.astype(f"f{wide}")) + 0.0  # no -0.0
    bits = negative.view(f"u{wide}")
    sign = bits.dtype.type(1 << (8 * bits.itemsize - 1))
    # The bits of positive floats ascend with them, those of negative ones descend.
    keys = np.where(bits >= sign, ~bits, bits | sign)
    keys[np.isnan(negative)] = np.iinfo(keys.dtype).max
    return keys


def rank_in_runs(values: np.ndarray) -> np.ndarray:
    """Number the elements of each run of equal neighbors: ``[7, 7, 4] -> [0, 1, 0]``."""
    positions = np.arange(len(values))
    is_first = starts_of_runs(values)
    return positions - np.maximum.accumulate(np.where(is_first, positions, 0))


def starts_of_runs(values: np.ndarray) -> np.ndarray:
    """Return whether each element differs from the one before it; the first one does."""
    is_first = np.ones(len(values), dtype=bool)
    np.not_equal(values[1:], values[:-1], out=is_first[1:])
    return is_first
