"""Axes of charts: where values lie, and which round numbers are written beside them."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

_MARGIN = 0.03
_ZERO = 0.35  # decades below the smallest positive value at which a logarithmic axis has zero


@dataclass(frozen=True)
class Axis:
    """Maps values to [0, 1].

    Attributes:
        low: The value, or its logarithm to base 10, at 0.
        high: The same at 1.
        ticks: Values that are written, with their text, in ascending order.
        log: Whether the axis is logarithmic.
        zero: Logarithm at which a logarithmic axis has zero.
    """

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False
    zero: float = 0.0

    def share(self, value: float) -> float:
        """Where a value lies, from 0 at the lower end to 1 at the upper."""
        if self.log:
            value = math.log10(value) if value > 0 else self.zero
        return (value - self.low) / (self.high - self.low)


def linear_axis(values: Iterable[float], *, intervals: int = 5) -> Axis:
    """A linear axis over zero and all finite values, from one round number to another.

    Args:
        values: what is drawn; ``nan`` is passed over.
        intervals: about how many there are between the ticks.
    """
    finite = [0.0, *(v for v in values if math.isfinite(v))]
    low, high = min(finite), max(finite)
    if low == high:
        high = 1.0
    step = round_step((high - low) / intervals)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    decimals = max(0, -math.floor(math.log10(step)))
    ticks = tuple((n * step, f"{n * step:,.{decimals}f}") for n in range(first, last + 1))
    return Axis(first * step, last * step, ticks)


def log_axis(values: Iterable[float]) -> Axis:
    """A logarithmic axis over all finite values, with ticks at 1, or 1, 2 and 5, of each decade.

    Zero, or less, has a tick of its own below the others.

    Args:
        values: what is drawn; ``nan`` is passed over.
    """
    finite = [v for v in values if math.isfinite(v)]
    positive = [v for v in finite if v > 0] or [1.0, 10.0]
    low, high = math.log10(min(positive)), math.log10(max(positive))
    if high - low < 0.5:
        low, high = low - 0.25, high + 0.25
    multiples = (1,) if high - low > 2 else (1, 2, 5)
    decades = range(math.floor(low), math.ceil(high) + 1)
    round_values = [m * 10.0**d for d in decades for m in multiples]
    ticks = [(v, f"{v:,.12g}") for v in round_values if low <= math.log10(v) + 1e-9 <= high + 2e-9]
    zero = low - _ZERO
    if any(v <= 0 for v in finite):
        ticks, low = [(0.0, "0"), *ticks], zero
    margin = _MARGIN * (high - low)
    return Axis(low - margin, high + margin, tuple(ticks), log=True, zero=zero)


def round_step(rough: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is at least ``rough``, above 0."""
    decade = 10.0 ** math.floor(math.log10(rough))
    return next(m * decade for m in (1, 2, 5, 10) if m * decade >= rough * (1 - 1e-9))
