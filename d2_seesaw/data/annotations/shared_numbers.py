"""Many equal numbers as one Python object each: 8 bytes a number in a list, instead of 32.

Coordinates of annotations have two decimals, so the tens of millions in a file are some ten
thousand different ones.

Shapes in this module:
    X: numbers
"""

import numpy as np

_STEPS = 100  # of a pixel: two decimals
_MOST_PIXELS = 10_000
_BLOCK = 1 << 20


class SharedNumbers:
    """Slices of an array as lists, in which equal numbers of two decimals are the same object.

    Args:
        numbers: ``(X,)`` float64. Those with more decimals, beyond [0, 10000], or where there are
            too few for sharing to pay, become objects of their own.
        share: False makes objects of their own of all.
    """

    def __init__(self, numbers: np.ndarray, *, share: bool = True) -> None:
        self._numbers = numbers
        highest = numbers.max(initial=0)
        size = int(min(highest if np.isfinite(highest) else 0, _MOST_PIXELS)) * _STEPS + _STEPS
        self.is_shared = share and len(numbers) > size
        if self.is_shared:
            values = np.arange(size) / _STEPS
            self._objects = values.astype(object)
            self._codes, self._unshared = _coded(numbers, values)

    def slice(self, start: int, stop: int) -> list[float]:
        """``numbers[start:stop].tolist()``."""
        if not self.is_shared or self._has_unshared(start, stop):
            return self._numbers[start:stop].tolist()
        return self._objects.take(self._codes[start:stop]).tolist()

    def rows(self, width: int) -> list[list[float]]:
        """All numbers, as lists of ``width``."""
        if not self.is_shared:
            return self._numbers.reshape(-1, width).tolist()
        objects = self._objects.take(self._codes)
        objects[self._unshared] = self._numbers[self._unshared]
        return objects.reshape(-1, width).tolist()

    def _has_unshared(self, start: int, stop: int) -> bool:
        if not len(self._unshared):
            return False
        first, last = np.searchsorted(self._unshared, (start, stop))
        return first < last


def _coded(numbers: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``(X,)`` places in ``values``, and which of the numbers are not there."""
    codes = np.empty(len(numbers), np.int32)
    unshared = []
    for start in range(0, len(numbers), _BLOCK):
        block = numbers[start : start + _BLOCK]
        nearest = np.rint(np.clip(block, 0, values[-1]) * _STEPS).astype(np.int32)
        codes[start : start + _BLOCK] = nearest
        unshared.append(np.flatnonzero(values[nearest] != block) + start)
    return codes, np.concatenate(unshared)
