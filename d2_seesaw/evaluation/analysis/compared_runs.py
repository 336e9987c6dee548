"""Runs to compare: names and pairing, and their detections matched with the annotations."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path

import numpy as np

from d2_seesaw.data.frequency import GROUPS, UNKNOWN_FREQUENCY
from d2_seesaw.evaluation.analysis import (
    LongTailAnalysis,
    analysis_path,
    check_annotations,
    read_analysis,
)
from d2_seesaw.evaluation.analysis.resampled_ap import CountedObjects, RankedMatches
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns
from d2_seesaw.evaluation.lvis.metrics import match_detections, scores_of_matches
from d2_seesaw.evaluation.lvis.rules import TASKS
from d2_seesaw.evaluation.predictions.detections import Detections
from d2_seesaw.evaluation.predictions.entries import ImageSize
from d2_seesaw.evaluation.predictions.files import RESULTS
from d2_seesaw.evaluation.predictions.limits import DetectionLimits
from d2_seesaw.evaluation.predictions.results_file import ResultsFile
from d2_seesaw.evaluation.predictions.validation import check_detections
from d2_seesaw.evaluation.tables import CategoryResult, category_results

logger = logging.getLogger(__name__)

_SUFFIXES = (".json", ".npz")
_LAST_NUMBER = re.compile(r"\d+(?=\D*$)")
_ROUNDING = 1e-6  # percent


@dataclass(frozen=True)
class MatchedRun:
    """One run and task, matched with the annotations.

    Attributes:
        ap: ``(K,)`` AP of each category in percent, ``nan`` without objects.
        ranked: The detections that can change it.
    """

    ap: np.ndarray
    ranked: RankedMatches


@dataclass(frozen=True)
class TaskRuns:
    """Runs of one task.

    Attributes:
        task: "bbox" or "segm".
        fingerprint: Fingerprint of the annotations.
        objects: Objects that count.
        categories: One row per category with its group and numbers. The scores are those of the
            first run.
        runs: Matched runs by group, in the order of the group.
    """

    task: str
    fingerprint: str
    objects: CountedObjects
    categories: list[CategoryResult]
    runs: dict[str, list[MatchedRun]] = field(default_factory=dict)


def run_name(path: str | PathLike[str]) -> str:
    """Return the name of a run: that of its folder, without ``inference``."""
    folder = Path(path).resolve()
    folder = folder.parent if folder.suffix in _SUFFIXES else folder
    return folder.parent.name if folder.name.startswith("inference") else folder.name


def results_file(run: str | PathLike[str]) -> Path:
    """Return the file with the detections of a run.

    Args:
        run: Folder of an evaluation, the folder of a run with ``inference`` in it, or the file.

    Raises:
        ValueError: there is none.
    """
    path = Path(run)
    folders = (path, path / "inference")
    found = [f / name for f in folders for name in RESULTS if (f / name).is_file()]
    if path.is_file() and path.suffix in _SUFFIXES:
        found = [path]
    if not found:
        raise ValueError(
            f"{path} has no {RESULTS[1]} or {RESULTS[0]}: the interval over images needs the "
            "detections, which every evaluation with an output folder writes"
        )
    return found[0]


def check_different_runs(groups: Mapping[str, Sequence[str | PathLike[str]]]) -> None:
    """Refuse runs that are counted twice, which would pass for two seeds.

    Args:
        groups: Runs by group, see ``results_file``.

    Raises:
        ValueError: two runs have the same detections, or two of a group the same name; or a run has
            no detections.
    """
    seen: dict[Path, str] = {}
    for group, runs in groups.items():
        names: dict[str, str | PathLike[str]] = {}
        for run in runs:
            file = results_file(run).resolve()
            evaluation = file.parent if file.name in RESULTS else file
            if evaluation in seen:
                raise ValueError(
                    f"{run} in group {group!r} has the detections of {seen[evaluation]}: give each "
                    "evaluation once"
                )
            seen[evaluation] = f"{run} in group {group!r}"
            other = names.setdefault(run_name(run), run)
            if other is not run:
                raise ValueError(
                    f"{other} and {run} in group {group!r} are both named {run_name(run)!r}: give "
                    "one evaluation of each run, and runs folders with different names"
                )


def ordered_by_seed(names: Sequence[str]) -> list[int]:
    """Return the order of runs by the numbers in their names, as people read them."""
    keys = [[int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)] for name in names]
    # Numbers and text alternate, so that keys can be compared.
    return sorted(range(len(names)), key=lambda i: keys[i])


def are_paired(first: Sequence[str], second: Sequence[str]) -> bool:
    """Return whether the runs of two groups have the same seeds.

    Args:
        first: Names in the order of ``ordered_by_seed``. The last number in a name is its seed;
            names without a number are compared as they are.
        second: Names of the other group.
    """
    seeds = [[found[0] if (found := _LAST_NUMBER.findall(n)) else n for n in x]
             for x in (first, second)]  # fmt: skip
    return seeds[0] == seeds[1] and len(set(seeds[0])) == len(seeds[0])


class RunReader:
    """Reader of runs that were evaluated on one annotation file.

    Args:
        ground_truth: The annotations.
        limits: Detections that count, as in the evaluations.
        train_images: Training images by category id, for annotations without counts.
        image_size: Height and width of an image by its id, for masks that are polygons.
    """

    def __init__(
        self,
        ground_truth: GroundTruthColumns,
        limits: DetectionLimits,
        train_images: Mapping[int, int],
        image_size: ImageSize,
    ) -> None:
        self._image_size = image_size
        if limits.per_category is not None:
            raise ValueError("AP-fixed has no interval over images: its limit is over all images")
        self.ground_truth, self.limits, self._train_images = ground_truth, limits, train_images
        self._group_source: LongTailAnalysis | None = None
        self._tasks: dict[str, TaskRuns] = {}
        self._possible: dict[Path, tuple[str, ...]] = {}
        self._digests: dict[tuple[str, bytes], Path] = {}

    def read(self, group: str, run: str | PathLike[str], tasks: Sequence[str] | None) -> None:
        """Read and match the detections of a run of a group.

        Detections of categories that the annotations do not list are left out with a warning if
        the evaluation beside them left them out too, which its AP tells.

        Args:
            group: Name of the group.
            run: See ``results_file``.
            tasks: Tasks to compare; by default those that the detections of all runs allow.

        Raises:
            ValueError: the run has no detections for a task, was evaluated on other annotations or
                with other limits, has the detections of another run of its group, or lacks
                detections that prediction left out.
        """
        file = results_file(run)
        source = ResultsFile.find(file)
        source.check_complete(self.limits)
        found = source.read(self._image_size)
        try:
            detections = source.with_ids_of(found, self.ground_truth.table)
        except ValueError as error:
            raise ValueError(f"{file} does not fit the annotations: {error}") from error
        self._check_copy(group, file, detections)
        # A file without detections does not say what its model predicts.
        possible = detections.tasks if len(detections) else tuple(tasks or TASKS)
        missing = sorted(set(tasks or ()) - set(possible))
        if missing:
            raise ValueError(f"{file} has detections for {possible}, not for {missing}")
        detections = self._of_listed_categories(file, detections, tasks or possible)
        try:
            check_detections(detections, self.ground_truth, possible, any_scores=True)
        except ValueError as error:
            raise ValueError(f"{file} does not fit the annotations: {error}") from error
        self._possible[file] = possible
        for task in tasks or possible:
            self._match(task, group, file, detections)

    def _check_copy(self, group: str, file: Path, detections: Detections) -> None:
        if not len(detections):
            return  # two trainings can both find nothing
        other = self._digests.setdefault((group, _digest(detections)), file)
        if other != file:
            raise ValueError(
                f"{file} has the same detections as {other}, in the same group {group!r}: a copy "
                "would count as another seed. Give each training once"
            )

    def _of_listed_categories(
        self, file: Path, detections: Detections, tasks: Sequence[str]
    ) -> Detections:
        listed = np.isin(detections.category_ids, self.ground_truth.category_ids)
        # The AP of each task is compared with the one that its evaluation recorded.
        evaluated = all(Path(analysis_path(file.parent, task)).is_file() for task in tasks)
        if listed.all() or not evaluated:
            return detections
        logger.warning(
            f"{file}: {int((~listed).sum())} of {len(detections)} detections are of categories "
            "that the annotations do not list. They are left out, as in the evaluation beside them"
        )
        return detections.take(np.flatnonzero(listed))

    def _match(self, task: str, group: str, file: Path, detections: Detections) -> None:
        truth = self.ground_truth.of_task(task)
        matched = match_detections(truth, detections.of_task(task), task, limits=self.limits)
        scores = scores_of_matches(truth, matched)
        fingerprint = truth.fingerprint()
        beside = Path(analysis_path(file.parent, task))
        recorded = read_analysis(beside) if beside.is_file() else None
        if recorded is not None:
            _check_recorded(recorded, beside, fingerprint, scores.metrics["AP"])
            self._group_source = self._group_source or recorded
        if task not in self._tasks:
            rows = category_results(truth.table, scores, self._train_images)
            objects = CountedObjects.from_ground_truth(truth)
            self._tasks[task] = TaskRuns(task, fingerprint, objects, rows)
        ranked = RankedMatches.from_matches(matched, len(truth.image_ids))
        runs = self._tasks[task].runs.setdefault(group, [])
        runs.append(MatchedRun(scores.category_ap, ranked))

    def task_runs(self) -> list[TaskRuns]:
        """Return the runs of each task that all runs have, masks first.

        A task that only some of them have is left out with a warning. Frequency groups are those
        of the annotations, or else those of an evaluation.

        Raises:
            ValueError: there is no such task.
        """
        lacking = {
            task: [file for file, tasks in self._possible.items() if task not in tasks]
            for task in self._tasks
        }
        shared = [task for task, files in lacking.items() if not files]
        for task, files in lacking.items():
            if files and shared:
                logger.warning(
                    f"Only {shared[0]} is compared, because {files[0]} has no detections for {task}"
                )
        if not shared:
            raise ValueError(
                "the runs have no task in common: "
                + ", ".join(f"{files[0]} has none for {task}" for task, files in lacking.items())
            )
        found = []
        for task in sorted(shared, reverse=True):
            of_task = self._tasks[task]
            known = {row.frequency for row in of_task.categories} & set(GROUPS)
            if not known and self._group_source is not None:
                rows = {row.category_id: row for row in self._group_source.categories}
                of_task = replace(
                    of_task,
                    categories=[
                        replace(
                            row,
                            frequency=getattr(rows.get(row.category_id), "frequency", None)
                            or UNKNOWN_FREQUENCY,
                        )
                        for row in of_task.categories
                    ],
                )
            found.append(of_task)
        return found


def _digest(detections: Detections) -> bytes:
    """Return a hash of images, categories, scores and boxes, of whatever file they were read."""
    digest = hashlib.sha256()
    for ids in (detections.image_ids, detections.category_ids):
        digest.update((ids if ids.dtype.kind == "U" else ids.astype(np.int64)).tobytes())
    for numbers in (detections.scores, detections.boxes):
        if numbers is not None:
            digest.update(numbers.astype(np.float32).tobytes())
    return digest.digest()


def _check_recorded(
    recorded: LongTailAnalysis, path: Path, fingerprint: str, average_precision: float
) -> None:
    check_annotations(recorded, path, fingerprint)
    if abs(recorded.metrics["AP"] - average_precision) > _ROUNDING:
        raise ValueError(
            f"the detections beside {path} have an AP of {average_precision:.3f}, but it says "
            f"{recorded.metrics['AP']:.3f}: give the limit of detections of the evaluation"
        )
