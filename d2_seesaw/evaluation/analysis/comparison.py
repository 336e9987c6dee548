"""Two evaluations on the same annotations, and how sure their difference is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from d2_seesaw.data.frequency import GROUPS
from d2_seesaw.evaluation.analysis import LongTailAnalysis
from d2_seesaw.evaluation.analysis.confusion import TailConfusion, confusions_with_more_frequent
from d2_seesaw.evaluation.tables import CategoryResult

_CONFIDENCE = 0.95
_RESAMPLES = 10_000
_DRAWN_AT_ONCE = 2_000_000  # categories: some 30 MB


@dataclass(frozen=True)
class MeanDifference:
    """The mean of a difference over categories, with its interval.

    Attributes:
        mean: Second minus first; ``nan`` without categories.
        low: Lower end of the interval; ``nan`` for fewer than two categories.
        high: Upper end, in the same way.
        categories: How many were scored in both.
    """

    mean: float
    low: float
    high: float
    categories: int


@dataclass(frozen=True)
class PairChange:
    """How often objects of a category are taken for those of a more frequent one, in two runs.

    Attributes:
        pair: The categories, in the run where there is such an object, the second if in both.
        first: Objects in the first run.
        second: Objects in the second.
    """

    pair: TailConfusion
    first: int
    second: int

    @property
    def difference(self) -> int:
        """Second minus first."""
        return self.second - self.first


@dataclass(frozen=True)
class Comparison:
    """Two evaluations of one task.

    Attributes:
        names: Of the two runs.
        first: The one that is compared with.
        second: The other.
        differences: AP of the second minus AP of the first, one for each of ``first.categories``;
            ``nan`` where either is.
        groups: The mean of the differences over the categories of "all", "r", "c" and "f".
        pairs: What changed of what swallows the tail, greatest changes first.
    """

    names: tuple[str, str]
    first: LongTailAnalysis
    second: LongTailAnalysis
    differences: list[float]
    groups: dict[str, MeanDifference]
    pairs: list[PairChange]

    @property
    def runs(self) -> dict[str, LongTailAnalysis]:
        """The two analyses by the names of the runs."""
        return dict(zip(self.names, (self.first, self.second), strict=True))

    def metric_difference(self, metric: str) -> float:
        """A metric of the second minus that of the first; ``nan`` where either is."""
        return self.second.metrics.get(metric, math.nan) - self.first.metrics.get(metric, math.nan)

    def changed_categories(self) -> list[tuple[CategoryResult, CategoryResult, float]]:
        """Categories in both runs and their difference, where there is one; greatest gains first.

        Of equal differences, those with most objects come first, then they are in order of the id.
        """
        rows = zip(self.first.categories, self.second.categories, self.differences, strict=True)
        known = [row for row in rows if not math.isnan(row[2])]
        return sorted(known, key=lambda row: (-row[2], -row[0].gt_instances, row[0].category_id))


def compare(
    first: LongTailAnalysis,
    second: LongTailAnalysis,
    *,
    names: tuple[str, str] = ("first", "second"),
    seed: int = 0,
) -> Comparison:
    """Compare two analyses of the same task on the same annotations.

    The intervals cover which categories happened to be in the data set, as
    ``paired_bootstrap`` says, not the noise between trainings with different seeds: that is of the
    order of 0.3 AP on LVIS (standard deviation over seeds, as Detectron2's ViTDet project reports).

    Args:
        first: What is compared with.
        second: What is compared.
        names: Of the two, different.
        seed: Of the resampling.

    Raises:
        ValueError: they are not of the same task, annotations and frequency groups, or the names
            are equal.
    """
    _check_comparable(first, second, names)
    differences = [b.AP - a.AP for a, b in zip(first.categories, second.categories, strict=True)]
    groups = {
        group: paired_bootstrap(
            [
                difference
                for category, difference in zip(first.categories, differences, strict=True)
                if group in ("all", category.frequency)
            ],
            seed=seed,
        )
        for group in ("all", *GROUPS)
    }
    return Comparison(names, first, second, differences, groups, _changed_pairs(first, second))


def paired_bootstrap(
    differences: Sequence[float], *, seed: int = 0, resamples: int = _RESAMPLES
) -> MeanDifference:
    """The mean of differences with its 95 % percentile bootstrap interval over categories.

    Categories are drawn with replacement, each with its results in both runs, as many as there are
    (Efron, Annals of Statistics 1979). The interval so covers which categories were drawn into the
    data set; not which images, and not the noise between training seeds.

    Args:
        differences: one for each category; ``nan`` is passed over.
        seed: of the resampling.
        resamples: how many times the categories are drawn.
    """
    known = np.array([d for d in differences if not math.isnan(d)])
    number = len(known)
    if number < 2:
        mean = float(known[0]) if number else math.nan
        return MeanDifference(mean, math.nan, math.nan, number)
    rng = np.random.default_rng(seed)
    at_once = max(1, _DRAWN_AT_ONCE // number)
    means = np.concatenate(
        [
            known[rng.integers(number, size=(min(at_once, resamples - start), number))].mean(1)
            for start in range(0, resamples, at_once)
        ]
    )
    low, high = np.quantile(means, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    return MeanDifference(float(known.mean()), float(low), float(high), number)


def _changed_pairs(first: LongTailAnalysis, second: LongTailAnalysis) -> list[PairChange]:
    before, after = (
        {
            (s.category.category_id, s.by.category_id): s
            for s in confusions_with_more_frequent(analysis)
        }
        for analysis in (first, second)
    )
    changes = [
        PairChange(
            after.get(key) or before[key],
            before[key].objects if key in before else 0,
            after[key].objects if key in after else 0,
        )
        for key in sorted(before.keys() | after.keys())
    ]
    return sorted((c for c in changes if c.difference), key=lambda c: -abs(c.difference))


def _check_comparable(
    first: LongTailAnalysis, second: LongTailAnalysis, names: tuple[str, str]
) -> None:
    a, b = names
    if a == b:
        raise ValueError(f"two runs need two names, got {a!r} for both")
    if first.task != second.task:
        raise ValueError(
            f"only one task can be compared: {a} is of {first.task!r}, {b} of {second.task!r}"
        )
    if first.ground_truth != second.ground_truth:
        raise ValueError(
            f"{a} and {b} were evaluated on different annotations ({first.ground_truth} and "
            f"{second.ground_truth}): evaluate both on the same file"
        )
    groups, others = ({c.category_id: c.frequency for c in x.categories} for x in (first, second))
    differing = [i for i in sorted(groups.keys() | others.keys()) if groups.get(i) != others.get(i)]
    if differing:
        raise ValueError(
            f"{a} and {b} put {len(differing)} categories into different frequency groups, first "
            f"that with id {differing[0]}: evaluate both with the same training images"
        )
