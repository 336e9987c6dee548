"""Metric of the evaluations that a hook follows."""

import math

from detectron2.utils.events import EventStorage

MODES = ("max", "min")


class UnknownMetricError(ValueError):
    """Error for a metric that the evaluation does not produce."""


def metrics_since(storage: EventStorage, iteration: int) -> dict[str, float]:
    """Return the metrics of an evaluation at an iteration, or of a later one, by name."""
    smoothed = storage.smoothing_hints()
    # Metrics of evaluations are not smoothed, and are named after their task.
    return {
        name: float(value)
        for name, (value, at) in storage.latest().items()
        if at >= iteration and "/" in name and not smoothed[name]
    }


def metric_of(metrics: dict[str, float], name: str, option: str) -> float:
    """Return a metric of an evaluation.

    Args:
        metrics: all metrics of the evaluation.
        name: name of the metric.
        option: option that names it, for the message.

    Raises:
        UnknownMetricError: the evaluation does not produce the metric; the message lists those that
            it produces.
    """
    if name not in metrics:
        raise UnknownMetricError(
            f"{option}: the evaluation has no {name!r}, but {', '.join(sorted(metrics))}"
        )
    return metrics[name]


def is_better(value: float, best: float | None, mode: str, *, by: float = 0.0) -> bool:
    """Return whether a value improves on the best one by more than ``by``.

    A value that is not finite never does.
    """
    if not math.isfinite(value):
        return False
    return best is None or (value > best + by if mode == "max" else value < best - by)
