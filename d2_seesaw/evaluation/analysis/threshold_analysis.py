"""Score thresholds of an evaluation: the table of its categories, and how well they work.

Shapes in this module:
    K: categories
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from d2_seesaw.data.frequency import GROUPS
from d2_seesaw.evaluation.analysis import CategoryThreshold, ThresholdAnalysis, ThresholdSummary
from d2_seesaw.evaluation.analysis.operating_points import BEST_F1, OperatingPoints, ThresholdRule
from d2_seesaw.evaluation.analysis.thresholds import (
    ALL,
    FEWEST_OBJECTS,
    Counts,
    Outcomes,
    ThresholdFit,
    Thresholds,
    image_folds,
    select_thresholds,
)
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns
from d2_seesaw.evaluation.tables import CategoryResult, format_score

PRECISION = ThresholdRule("precision", 0.9)
RECALL = ThresholdRule("recall", 0.8)
FIXED = ThresholdRule("score", 0.5)
RULES = (BEST_F1, PRECISION, RECALL, FIXED)
"""Rules that an evaluation reports."""


@dataclass(frozen=True)
class TaskThresholds:
    """Operating points of one task, from which a rule selects the threshold of each category.

    Attributes:
        category_ids: Ids of the K categories.
        names: Their names.
        frequencies: Their groups, "r", "c" or "f", or "n/a".
        points: Operating points of each category.
        pools: Operating points with one threshold for a group, or for "all".
        fewest_objects: Objects that a category or group needs for a threshold of its own.
        f1: Cross-fitted F1 of "best-f1" in percent: the mean over all categories with objects.
    """

    category_ids: list[int]
    names: list[str]
    frequencies: list[str]
    points: list[OperatingPoints]
    pools: dict[str, OperatingPoints]
    fewest_objects: int = FEWEST_OBJECTS
    f1: float = math.nan

    def select(self, rule: ThresholdRule) -> Thresholds:
        """Return the thresholds of the categories."""
        frequencies = np.array(self.frequencies)
        groups = {g: np.flatnonzero(frequencies == g) for g in GROUPS if g in self.pools}
        return select_thresholds(
            rule, self.points, self.pools, groups, fewest_objects=self.fewest_objects
        )


def analyze_thresholds(
    ground_truth: GroundTruthColumns, outcomes: Outcomes, categories: Sequence[CategoryResult]
) -> tuple[ThresholdAnalysis, TaskThresholds]:
    """Select thresholds, and measure them on images on which they were not chosen.

    Args:
        ground_truth: The annotations.
        outcomes: Their detections.
        categories: One row per category, in order of the id.

    Returns:
        The analysis for reports, and the operating points for other rules.
    """
    folds = image_folds(ground_truth.image_ids, outcomes)
    fit = ThresholdFit(outcomes)
    points, pools = fit.points()
    held_out = fit.cross_fitted_counts(RULES, folds)
    selected = {rule: select_thresholds(rule, points, pools, outcomes.groups) for rule in RULES}
    in_sample = {rule: outcomes.counts(chosen.values) for rule, chosen in selected.items()}
    summaries = [
        _summary(rule, group, members, counts, in_sample[rule])
        for rule, counts in zip(RULES, held_out, strict=True)
        for group, members in {ALL: np.arange(outcomes.number), **outcomes.groups}.items()
    ]
    analysis = ThresholdAnalysis(
        folds=len(np.unique(folds)),
        fewest_objects=FEWEST_OBJECTS,
        categories=_rows(categories, points, selected, in_sample, held_out[0]),
        summaries=summaries,
    )
    task = TaskThresholds(
        category_ids=[c.category_id for c in categories],
        names=[c.name for c in categories],
        frequencies=[c.frequency for c in categories],
        points=points,
        pools=pools,
        f1=summaries[0].F1,
    )
    return analysis, task


def thresholds_text(analysis: ThresholdAnalysis) -> str:
    """Return one line that compares thresholds of the categories with 0.5 for all."""
    means = {s.rule: s.F1 for s in analysis.summaries if s.group == ALL}
    best, fixed = (means[str(rule)] for rule in (BEST_F1, FIXED))
    how = f"cross-fitted over {analysis.folds} parts of the images"
    if math.isnan(best) and not math.isnan(fixed):
        how = (
            f"because the other images of one of the {analysis.folds} parts, for cross-fitting, "
            "have no right detection to choose it on"
        )
        if analysis.folds == 1:
            how = "because one image cannot be divided for cross-fitting"
    return (
        f"Mean F1 at the best threshold of each category: {format_score(best)}, {how}; "
        f"at 0.5 for all: {format_score(fixed)}"
    )


def _rows(
    categories: Sequence[CategoryResult],
    points: Sequence[OperatingPoints],
    selected: dict[ThresholdRule, Thresholds],
    in_sample: dict[ThresholdRule, Counts],
    held_out: Counts,
) -> list[CategoryThreshold]:
    best, counts = selected[BEST_F1], in_sample[BEST_F1]
    thresholds = np.where(np.isfinite(best.values), best.values, np.nan)
    columns = {
        "objects": counts.objects,
        "threshold": thresholds,
        "detections": counts.detections,
        "precision": counts.precision,
        "recall": counts.recall,
        "F1": counts.f1,
        "F1_cross_fitted": held_out.f1,
        "F1_at_half": in_sample[FIXED].f1,
        **_where_reached("precision", "recall_there", PRECISION, points),
        **_where_reached("recall", "precision_there", RECALL, points),
    }
    lists = {name: column.tolist() for name, column in columns.items()}
    return [
        CategoryThreshold(
            category_id=category.category_id,
            name=category.name,
            frequency=category.frequency,
            chosen_on=best.origins[k],
            **{name: values[k] for name, values in lists.items()},
        )
        for k, category in enumerate(categories)
    ]


def _where_reached(
    wanted: str, other: str, rule: ThresholdRule, points: Sequence[OperatingPoints]
) -> dict[str, np.ndarray]:
    """Return threshold and the other number in percent, ``nan`` where the target is not reached."""
    threshold, there = np.full((2, len(points)), np.nan)
    for k, own in enumerate(points):
        at, reached = own.select(rule) or (0, False)
        if reached:
            value = own.recall if wanted == "precision" else own.precision
            threshold[k], there[k] = own.thresholds[at], 100 * value[at]
    return {f"threshold_for_{wanted}": threshold, other: there}


def _summary(
    rule: ThresholdRule, group: str, members: np.ndarray, held_out: Counts, in_sample: Counts
) -> ThresholdSummary:
    with_objects = members[held_out.objects[members] > 0]
    return ThresholdSummary(
        rule=str(rule),
        group=group,
        categories=len(with_objects),
        precision=_mean(held_out.precision[with_objects]),
        recall=_mean(held_out.recall[with_objects]),
        F1=_mean(held_out.f1[with_objects]),
        F1_in_sample=_mean(in_sample.f1[with_objects]),
    )


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan
