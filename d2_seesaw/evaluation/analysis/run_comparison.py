"""Comparison of groups of runs, with intervals over images and training seeds.

A group is one method, trained with one or several seeds. All runs are evaluated on the same images.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from d2_seesaw.data.annotations.image_groups import group_images
from d2_seesaw.data.frequency import GROUPS
from d2_seesaw.evaluation.analysis.compared_runs import (
    RunReader,
    TaskRuns,
    are_paired,
    check_different_runs,
    ordered_by_seed,
    run_name,
)
from d2_seesaw.evaluation.analysis.comparison import LEAST_CATEGORIES
from d2_seesaw.evaluation.analysis.differences import (
    Difference,
    GroupScore,
    PairComparison,
    RunComparison,
    TaskComparison,
)
from d2_seesaw.evaluation.analysis.intervals import (
    Interval,
    ResampledRuns,
    benjamini_hochberg,
    difference_interval,
)
from d2_seesaw.evaluation.analysis.resampled_ap import resample_weights
from d2_seesaw.evaluation.lvis.annotations import TrainImageCounts, read_evaluation_table
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns
from d2_seesaw.evaluation.predictions.limits import DetectionLimits
from d2_seesaw.evaluation.predictions.predicted_images import annotated_sizes
from d2_seesaw.evaluation.scoring import check_tasks
from d2_seesaw.utils.progress import Progress

RESAMPLES = 500
"""Number of resamples. They give a variance, which needs fewer of them than quantiles do: the
standard error of a standard error is 3 %."""

LEAST_IMAGES = 10
"""Number of images with a category from which on its difference gets an interval, and the mean over
fewer than ``LEAST_CATEGORIES`` categories."""

METRIC_GROUPS = {"AP": GROUPS, **{f"AP{group}": (group,) for group in GROUPS}}


def compare_runs(
    groups: Mapping[str, Sequence[str | PathLike[str]]],
    annotations: str | PathLike[str],
    *,
    tasks: Sequence[str] | None = None,
    train_image_counts: TrainImageCounts | None = None,
    registered_counts: Mapping[int, int] | None = None,
    limits: DetectionLimits | None = None,
    paired: bool | None = None,
    group_by: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> RunComparison:
    """Compare groups of runs with the first one, with intervals over images and seeds.

    With two or more runs in both groups, the intervals cover the choice of the images and the seeds
    of the trainings. With one run in a group they cover the images only: the statement is then
    about these trained models, not about the methods.

    Args:
        groups: Two or more groups by name, the baseline first. A run is a folder of an evaluation,
            or its ``lvis_instances_results.json`` or ``instances_predictions.npz``, or another file
            of results. Images of ``d2-seesaw predict`` are matched by file name.
        annotations: The annotations of the evaluations, a JSON file in the format of LVIS or COCO.
        tasks: Any of "bbox" and "segm"; by default those of all runs.
        train_image_counts: Training images by category id, or the training annotations in which to
            count them. They decide the frequency groups; by default the annotations do, or else
            the analyses beside the detections.
        registered_counts: Training images by category id, for annotations without groups.
        limits: Detections that count, as in the evaluations.
        paired: Whether runs with the same seed are paired. By default they are if two groups have
            the same seeds, see ``are_paired``.
        group_by: Regular expression for the file names of images that depend on each other, such as
            the frames of a video, see ``group_images``. Such a group is drawn as a whole, and
            counts as one image where the number of images matters.
        resamples: Number of resamples of the images.
        seed: Seed of the resampling.

    Raises:
        ValueError: fewer than two groups, a group without runs, a run without detections or that
            is given twice, two runs of a group with the same name or the same detections, runs of
            other annotations or limits, no task that all runs have, a ``group_by`` that is not
            valid, finds nothing or leaves fewer than ``LEAST_IMAGES`` groups, or a negative seed.
    """
    check_tasks(tasks)
    if resamples < 2:
        raise ValueError(f"resamples must be at least 2, got {resamples}")
    if seed < 0:
        raise ValueError(f"the seed must be at least 0, got {seed}")
    if len(groups) < 2 or not all(groups.values()):
        raise ValueError(
            "a comparison needs two groups with a run each or more, got "
            + (", ".join(f"{name}: {len(runs)}" for name, runs in groups.items()) or "none")
        )
    check_different_runs(groups)
    names, ordered = {}, {}
    for group, runs in groups.items():
        found = [run_name(run) for run in runs]
        order = ordered_by_seed(found)
        names[group] = [found[i] for i in order]
        ordered[group] = [list(runs)[i] for i in order]
    table = read_evaluation_table(
        str(annotations),
        train_image_counts=train_image_counts,
        registered_counts=registered_counts,
        with_masks="segm" in (tasks or ()),
    )
    units = _drawn_units(table.images, group_by)
    truth = GroundTruthColumns.from_table(table)
    if not tasks and not table.has_segmentation.any():
        tasks = ("bbox",)
    sizes = annotated_sizes(annotations)
    reader = RunReader(truth, limits or DetectionLimits(), registered_counts or {}, sizes)
    total = sum(map(len, ordered.values()))
    with Progress("matching detections", total=total, unit="run") as progress:
        for group, runs in ordered.items():
            for run in runs:
                reader.read(group, run, tasks)
                progress.update(1)
    of_tasks = reader.task_runs()
    weights = resample_weights(units, resamples, np.random.default_rng(seed))
    return RunComparison(
        annotations=Path(annotations).name,
        images=len(table.images),
        resamples=resamples,
        seed=seed,
        groups=names,
        tasks=[_compare_task(of, units, weights, names, paired) for of in of_tasks],
        image_groups=None if group_by is None else len(np.unique(units)),
    )


def _drawn_units(images: Sequence[Mapping[str, Any]], group_by: str | None) -> np.ndarray:
    """Return the ``(I,)`` unit of each image: itself, or its group."""
    if group_by is None:
        return np.arange(len(images))
    units = group_images(images, group_by)
    number = len(np.unique(units))
    if number < LEAST_IMAGES:
        raise ValueError(
            f"--group-by {group_by!r} puts {len(images):,} images into {number} groups, and an "
            f"interval needs {LEAST_IMAGES} that are independent of each other"
        )
    return units


def _compare_task(
    of_task: TaskRuns,
    units: np.ndarray,
    weights: np.ndarray,
    names: Mapping[str, Sequence[str]],
    paired: bool | None,
) -> TaskComparison:
    numbers = of_task.objects.numbers(weights)
    data_of: dict[str, ResampledRuns] = {}
    total = sum(map(len, of_task.runs.values()))
    with Progress(f"resampling images ({of_task.task})", total=total, unit="run") as progress:
        for group, runs in of_task.runs.items():
            found = []
            for run in runs:
                found.append(run.ranked.average_precision(weights, numbers))
                progress.update(1)
            ap = np.stack([run.ap for run in runs])
            data_of[group] = ResampledRuns(ap, np.stack(found, axis=1))
    known = np.flatnonzero(np.diff(of_task.objects.bounds) > 0)
    data = _TaskData(
        of_task,
        data_of,
        of_task.objects.units_of_categories(units),
        {
            metric: np.array([k for k in known if of_task.categories[k].frequency in of], int)
            if metric != "AP"
            else known
            for metric, of in METRIC_GROUPS.items()
        },
    )
    baseline, *others = of_task.runs
    return TaskComparison(
        task=of_task.task,
        ground_truth=of_task.fingerprint,
        scores={group: data.scores(group) for group in of_task.runs},
        pairs=[data.pair(baseline, other, names, paired) for other in others],
    )


@dataclass(frozen=True)
class _TaskData:
    """Scores of one task.

    Attributes:
        of_task: The task.
        runs: Scores by group of runs.
        drawn: ``(K,)`` number of images, or of groups of images that are drawn as a whole, with an
            object of each category.
        members: Categories with objects of each metric.
    """

    of_task: TaskRuns
    runs: dict[str, ResampledRuns]
    drawn: np.ndarray
    members: dict[str, np.ndarray]

    def scores(self, group: str) -> dict[str, GroupScore]:
        """Return AP, APr, APc and APf of a group of runs."""
        scores = {}
        for metric, members in self.members.items():
            runs = np.full(len(self.runs[group].ap), math.nan)
            if len(members):
                runs = self.runs[group].ap[:, members].mean(axis=1)
            deviation = float(runs.std(ddof=1)) if len(runs) > 1 else math.nan
            scores[metric] = GroupScore(runs.tolist(), float(runs.mean()), deviation)
        return scores

    def pair(
        self,
        baseline: str,
        other: str,
        names: Mapping[str, Sequence[str]],
        paired: bool | None,
    ) -> PairComparison:
        """Compare two groups of runs."""
        first, second = names[baseline], names[other]
        if paired is None:
            paired = are_paired(first, second)
        elif paired and len(first) != len(second):
            raise ValueError(
                f"{baseline} has {len(first)} runs and {other} has {len(second)}: they cannot be "
                "paired"
            )
        metrics = [self._metric(m, baseline, other, paired) for m in self.members]
        categories = [self._category(k, baseline, other, paired) for k in self.members["AP"]]
        tested = [i for i, d in enumerate(categories) if not d.reason]
        rejected = benjamini_hochberg([categories[i].p_value for i in tested])
        for i, differs in zip(tested, rejected, strict=True):
            categories[i] = dataclasses.replace(categories[i], significant=differs)
        return PairComparison(
            baseline=baseline,
            compared=other,
            seeds=min(len(first), len(second)) > 1,
            pairs=list(zip(first, second, strict=True)) if paired else [],
            metrics=metrics,
            categories=categories,
        )

    def _metric(self, metric: str, baseline: str, other: str, paired: bool) -> Difference:
        members = self.members[metric]
        images = self.drawn[members]
        reason = ""
        if not len(members):
            reason = "no category with objects"
        elif len(members) < LEAST_CATEGORIES and images.min() < LEAST_IMAGES:
            reason = (
                f"{len(members)} categories, some in fewer than {LEAST_IMAGES} images: fewer than "
                f"{LEAST_CATEGORIES} categories need {LEAST_IMAGES} images each"
            )
        found = self._difference(members, baseline, other, paired, reason)
        found = dataclasses.replace(found, name=metric)
        return dataclasses.replace(found, significant=found.excludes_zero)

    def _category(self, k: int, baseline: str, other: str, paired: bool) -> Difference:
        row = self.of_task.categories[k]
        reason = ""
        if self.drawn[k] < LEAST_IMAGES:
            reason = f"in fewer than {LEAST_IMAGES} images"
        found = self._difference(np.array([k]), baseline, other, paired, reason)
        return dataclasses.replace(
            found, name=row.name, category_id=row.category_id, frequency=row.frequency
        )

    def _difference(
        self, members: np.ndarray, baseline: str, other: str, paired: bool, reason: str
    ) -> Difference:
        """Return the difference of the mean over some categories."""
        objects = self.of_task.objects
        first, second = (self.runs[group].of(members) for group in (baseline, other))
        found = Interval(*6 * [math.nan])
        means = math.nan, math.nan
        if len(members):
            means = float(first.means.mean()), float(second.means.mean())
        if not reason:
            found = difference_interval(first, second, self.drawn[members], paired=paired)
        images = [objects.images[objects.bounds[k] : objects.bounds[k + 1]] for k in members]
        together = np.concatenate([np.zeros(0, int), *images])
        return Difference(
            name="",
            category_id=None,
            frequency="",
            first=means[0],
            second=means[1],
            **{**dataclasses.asdict(found), "mean": means[1] - means[0]},
            categories=len(members),
            images=len(np.unique(together)),
            objects=len(together),
            reason=reason,
            significant=False,
        )
