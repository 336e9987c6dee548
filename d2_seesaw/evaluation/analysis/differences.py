"""Results of a comparison of groups of runs, as data and as a JSON file."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

_VERSION = 1


@dataclass(frozen=True)
class GroupScore:
    """Score of one group of runs.

    Attributes:
        runs: Score of each run, in percent.
        mean: Their mean.
        deviation: Their standard deviation (n - 1); ``nan`` for one run.
    """

    runs: list[float]
    mean: float
    deviation: float


@dataclass(frozen=True)
class Difference:
    """Difference of a score between two groups of runs.

    Attributes:
        name: "AP", "APr", "APc", "APf", or the name of a category.
        category_id: Id of the category; None for a metric.
        frequency: Frequency group of the category; "" for a metric.
        first: Mean score of the baseline.
        second: Mean score of the other group.
        mean: Second minus first.
        low: Lower end of the 95 % interval; ``nan`` without one.
        high: Upper end.
        standard_error: Of the mean; ``nan`` without an interval.
        degrees_of_freedom: Of Student's t; ``inf`` for the normal distribution.
        p_value: Of no difference, two-sided; ``nan`` without an interval.
        categories: Number of categories with objects.
        images: Number of images with such objects.
        objects: Number of objects.
        reason: Reason why there is no interval; "" if there is one.
        significant: For a category, whether it differs with a false discovery rate of 5 % over all
            categories with an interval (Benjamini-Hochberg); for a metric, whether the interval
            excludes 0.
    """

    name: str
    category_id: int | None
    frequency: str
    first: float
    second: float
    mean: float
    low: float
    high: float
    standard_error: float
    degrees_of_freedom: float
    p_value: float
    categories: int
    images: int
    objects: int
    reason: str
    significant: bool

    @property
    def excludes_zero(self) -> bool:
        """Return whether there is an interval that excludes 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class PairComparison:
    """Comparison of one group of runs with the baseline.

    Attributes:
        baseline: Name of the baseline.
        compared: Name of the other group.
        seeds: Whether the intervals cover training seeds; otherwise they cover images only.
        pairs: Names of the runs with the same seed; empty if the groups are not paired.
        metrics: Differences of AP, APr, APc and APf.
        categories: Differences of the categories with objects, in order of the id.
    """

    baseline: str
    compared: str
    seeds: bool
    pairs: list[tuple[str, str]]
    metrics: list[Difference]
    categories: list[Difference]

    @property
    def with_interval(self) -> list[Difference]:
        """Return the categories with an interval."""
        return [d for d in self.categories if not d.reason]


@dataclass(frozen=True)
class TaskComparison:
    """Comparison of all groups in one task.

    Attributes:
        task: "bbox" or "segm".
        ground_truth: Fingerprint of the annotations.
        scores: AP, APr, APc and APf of each group of runs, by the name of the group.
        pairs: Each other group against the first one.
    """

    task: str
    ground_truth: str
    scores: dict[str, dict[str, GroupScore]]
    pairs: list[PairComparison]


@dataclass(frozen=True)
class RunComparison:
    """Comparison of groups of runs on the same images.

    Attributes:
        annotations: Name of the annotation file.
        images: Number of images.
        resamples: Number of resamples of the images.
        seed: Seed of the resampling.
        groups: Names of the runs of each group.
        tasks: The tasks, masks first.
        image_groups: Number of groups of images that were drawn as a whole; None if single images
            were drawn. A group counts as one image where a number of images is needed.
    """

    annotations: str
    images: int
    resamples: int
    seed: int
    groups: dict[str, list[str]]
    tasks: list[TaskComparison]
    image_groups: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return JSON-serializable data, with None for ``nan`` and infinity."""
        return _finite({"version": _VERSION, **dataclasses.asdict(self)})


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
