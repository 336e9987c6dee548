"""Comparison of two evaluations on the same annotations, with confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from d2_seesaw.data.frequency import GROUPS
from d2_seesaw.evaluation.analysis import LongTailAnalysis
from d2_seesaw.evaluation.analysis.confusion import TailConfusion, confusions_with_more_frequent
from d2_seesaw.evaluation.tables import CategoryResult

LEAST_CATEGORIES = 10
"""Number of categories from which on a difference gets an interval. A percentile bootstrap of fewer
values is much too narrow: of 5 values, it covers the mean in about 83 % of the cases."""

_CONFIDENCE = 0.95
_RESAMPLES = 10_000
_DRAWN_AT_ONCE = 2_000_000  # categories: some 30 MB


@dataclass(frozen=True)
class MeanDifference:
    """Mean difference over categories, with its interval.

    Attributes:
        mean: Second minus first; ``nan`` without categories.
        low: Lower end of the interval; ``nan`` for too few categories.
        high: Upper end of the interval; ``nan`` for too few categories.
        categories: Number of categories with a score in both runs.
    """

    mean: float
    low: float
    high: float
    categories: int


@dataclass(frozen=True)
class PairChange:
    """Confusion of one category with a more frequent one, in two runs.

    Attributes:
        pair: The confusion in the second run, or in the first if the second has none.
        first: Number of objects in the first run.
        second: Number of objects in the second run.
    """

    pair: TailConfusion
    first: int
    second: int

    @property
    def difference(self) -> int:
        """Return the second number of objects minus the first."""
        return self.second - self.first


@dataclass(frozen=True)
class Comparison:
    """Comparison of two evaluations of one task.

    Attributes:
        names: Names of the two runs.
        first: The baseline.
        second: The run that is compared with it.
        differences: AP of the second minus AP of the first, one for each of ``first.categories``;
            ``nan`` where either is.
        groups: Mean difference over the categories of "all", "r", "c" and "f".
        pairs: Changed confusions with more frequent categories, the greatest changes first.
    """

    names: tuple[str, str]
    first: LongTailAnalysis
    second: LongTailAnalysis
    differences: list[float]
    groups: dict[str, MeanDifference]
    pairs: list[PairChange]

    @property
    def runs(self) -> dict[str, LongTailAnalysis]:
        """Return the two analyses by the name of their run."""
        return dict(zip(self.names, (self.first, self.second), strict=True))

    def metric_difference(self, metric: str) -> float:
        """Return a metric of the second run minus that of the first; ``nan`` if either is."""
        return self.second.metrics.get(metric, math.nan) - self.first.metrics.get(metric, math.nan)

    def changed_categories(self) -> list[tuple[CategoryResult, CategoryResult, float]]:
        """Return each category in both runs with its difference, the greatest gains first.

        Categories without a difference are left out. Equal differences are sorted by the number of
        objects, in descending order, and then by id.
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

    The intervals (see ``paired_bootstrap``) do not cover the noise between trainings with different
    seeds, about 0.3 AP on LVIS (standard deviation, as reported by Detectron2's ViTDet project).

    Args:
        first: The baseline.
        second: The run to compare with it.
        names: Their names, which must differ.
        seed: Seed of the resampling.

    Raises:
        ValueError: the tasks, annotations or frequency groups differ, or the names are equal.
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
            least=LEAST_CATEGORIES,
        )
        for group in ("all", *GROUPS)
    }
    return Comparison(names, first, second, differences, groups, _changed_pairs(first, second))


def paired_bootstrap(
    differences: Sequence[float], *, seed: int = 0, resamples: int = _RESAMPLES, least: int = 2
) -> MeanDifference:
    """Compute the mean difference and its 95 % percentile bootstrap interval over categories.

    Categories are resampled with replacement, each with its results in both runs (Efron, Annals of
    Statistics 1979). The interval covers the choice of categories in the dataset. It does not cover
    the choice of images or the noise between training seeds.

    Args:
        differences: One for each category; ``nan`` is ignored.
        seed: Seed of the resampling.
        resamples: Number of resamples.
        least: Number of categories, at least 2, below which there is no interval.
    """
    known = np.array([d for d in differences if not math.isnan(d)])
    number = len(known)
    if number < max(2, least):
        mean = float(known.mean()) if number else math.nan
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
            (s.category.category_id, s.predicted.category_id): s
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
            f"cannot compare different tasks: {a} is of {first.task!r}, {b} of {second.task!r}"
        )
    if first.ground_truth != second.ground_truth:
        raise ValueError(
            f"{a} and {b} were evaluated on different annotations ({first.ground_truth} and "
            f"{second.ground_truth}): evaluate both on the same file"
        )
    named, other_names = ({c.category_id: c.name for c in x.categories} for x in (first, second))
    renamed = [i for i in sorted(named.keys() & other_names.keys()) if named[i] != other_names[i]]
    if renamed:
        raise ValueError(
            f"category {renamed[0]!r} is {named[renamed[0]]!r} in {a} and "
            f"{other_names[renamed[0]]!r} in {b} ({len(renamed)} such categories): evaluate both "
            "with the same annotations"
        )
    groups, others = ({c.category_id: c.frequency for c in x.categories} for x in (first, second))
    differing = [i for i in sorted(groups.keys() | others.keys()) if groups.get(i) != others.get(i)]
    if differing:
        raise ValueError(
            f"{a} and {b} put {len(differing)} categories into different frequency groups, the "
            f"first with id {differing[0]}: evaluate both with the same training images"
        )
