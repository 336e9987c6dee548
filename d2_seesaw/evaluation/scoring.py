"""Scoring of detections by LVIS's rules: from detections to an :class:`EvaluationResult`."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from d2_seesaw.evaluation.analysis import LongTailAnalysis, ThresholdAnalysis, write_analysis
from d2_seesaw.evaluation.analysis.calibration import reliability_by_group
from d2_seesaw.evaluation.analysis.confusion import (
    Assignment,
    confusion_examples,
    object_confusions,
)
from d2_seesaw.evaluation.analysis.confusion_matrix import (
    confusion_matrix,
    write_confusion_matrix,
)
from d2_seesaw.evaluation.analysis.threshold_analysis import (
    TaskThresholds,
    analyze_thresholds,
    thresholds_text,
)
from d2_seesaw.evaluation.analysis.threshold_file import SplitThresholds
from d2_seesaw.evaluation.analysis.thresholds import Outcomes
from d2_seesaw.evaluation.earlier_files import REPORT_NAME, remove_scores
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns
from d2_seesaw.evaluation.lvis.metrics import (
    LVISScores,
    MatchedDetections,
    match_detections,
    scores_of_matches,
)
from d2_seesaw.evaluation.lvis.official import (
    evaluate_detections,
    lvis_from_table,
    probe,
    probe_lvis,
)
from d2_seesaw.evaluation.lvis.rules import TASKS
from d2_seesaw.evaluation.predictions.detections import Detections
from d2_seesaw.evaluation.predictions.limits import DetectionLimits
from d2_seesaw.evaluation.predictions.validation import check_detections
from d2_seesaw.evaluation.tables import (
    CategoryResult,
    category_results,
    group_counts,
    group_counts_text,
    metric_tables,
    most_frequent_first,
    row_table,
    write_category_results,
)
from d2_seesaw.utils.memory import release_free_memory

ENGINES = ("sparse", "lvis")
_LONGEST_LOGGED_TABLE = 30

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskEvaluation:
    """Evaluation of one task. Scores and analysis share the matching of detections.

    Attributes:
        ground_truth: The annotations, with all fields of the LVIS format.
        detections: Detections in its images.
        task: "bbox" or "segm".
        official: Whether the ``lvis`` package computes the scores.
        limits: Detections that count.
        class_agnostic: Whether a detection may match an object of any category.
        assignment_before: That of another task, which is often the same.
    """

    ground_truth: GroundTruthColumns
    detections: Detections
    task: str
    official: bool
    limits: DetectionLimits
    class_agnostic: bool
    assignment_before: Assignment | None = None

    @cached_property
    def _matched(self) -> MatchedDetections:
        return match_detections(
            self.ground_truth,
            self.detections,
            self.task,
            limits=self.limits,
            class_agnostic=self.class_agnostic,
        )

    @cached_property
    def assignment(self) -> Assignment:
        """Objects to which the detections belong."""
        before, own = self.assignment_before, self.detections
        if not (
            before is not None
            and before.ground_truth is self.ground_truth
            and before.detections.scores is own.scores
            and own.mask_scores is None
            and Assignment.uses_boxes(own, self.task)
        ):
            release_free_memory()  # here most memory is needed
            before = Assignment.of_detections(self.ground_truth, own, self.task, limits=self.limits)
        return before.with_right_masks(own, self._matched) if self.task == "segm" else before

    def scores(self) -> LVISScores:
        """Compute the metrics and the scores of the categories."""
        if not self.official:
            return scores_of_matches(
                self.ground_truth, self._matched, class_agnostic=self.class_agnostic
            )
        detections = self.detections
        if self.limits.per_category is not None:
            detections = detections.take(self.limits.rows(detections, self.task))
        return evaluate_detections(
            lvis_from_table(self.ground_truth.table),
            detections,
            self.task,
            max_dets_per_image=self.limits.per_image,
            class_agnostic=self.class_agnostic,
        )

    def thresholds(
        self, categories: list[CategoryResult]
    ) -> tuple[ThresholdAnalysis, TaskThresholds]:
        """Select score thresholds. Not available with ``class_agnostic=True``."""
        outcomes = Outcomes.of_matches(self.ground_truth, self._matched)
        return analyze_thresholds(self.ground_truth, outcomes, categories)

    def analysis(
        self,
        metrics: dict[str, float],
        categories: list[CategoryResult],
        thresholds: ThresholdAnalysis | None = None,
    ) -> LongTailAnalysis:
        """Build the long-tail analysis. Not available with ``class_agnostic=True``.

        Args:
            metrics: In percent, with the counts of the groups.
            categories: One row per category, in order of the id.
            thresholds: Score thresholds of these categories, if they are known already.
        """
        thresholds = thresholds or self.thresholds(categories)[0]
        labels = self.assignment.labels()
        analysis = LongTailAnalysis(
            task=self.task,
            ground_truth=self.ground_truth.fingerprint(),
            images=len(self.ground_truth.image_ids),
            detections=len(self.detections),
            metrics=metrics,
            categories=categories,
            confusions=object_confusions(self.ground_truth, labels),
            calibration=reliability_by_group(self.ground_truth, self._matched),
            thresholds=thresholds,
            matrix=confusion_matrix(
                self.assignment,
                np.nan_to_num([c.threshold for c in thresholds.categories], nan=np.inf),
            ),
        )
        return replace(
            analysis,
            examples=confusion_examples(analysis, self.ground_truth, self.detections, labels),
        )


@dataclass(frozen=True)
class LVISScoring:
    """Scoring of detections by LVIS's rules.

    Attributes:
        engine: "sparse", the engine of this project, or "lvis", the official package, which is much
            slower, needs gigabytes more, and counts a detection that matches annotation 0 as wrong.
        limits: Detections that count.
        class_agnostic: Whether a detection may match an object of any category.
        any_scores: Whether scores may be outside of [0, 1]. They must be finite in any case.
    """

    engine: str = "sparse"
    limits: DetectionLimits = field(default_factory=DetectionLimits)
    class_agnostic: bool = False
    any_scores: bool = False

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ValueError(f"engine must be among {ENGINES}, got {self.engine!r}")
        for limit in (self.limits.per_image, self.limits.per_category):
            if limit is not None and limit < 1:
                raise ValueError(f"A limit of detections must be at least 1, got {limit}")

    def probe(self) -> None:
        """Check that the engine works in this environment, like ``probe_lvis``."""
        if self.engine == "lvis":
            probe_lvis()
        else:
            probe(LVISScoring().score_task)

    def score_task(
        self, ground_truth: GroundTruthColumns, detections: Detections, task: str
    ) -> LVISScores:
        """Compute the scores of one task, "bbox" or "segm", without logging them.

        Raises:
            ValueError: detections that cannot be scored, see ``check_detections``.
        """
        self._check(ground_truth, detections, [task])
        return self._evaluation(ground_truth, detections, task).scores()

    def _check(
        self, ground_truth: GroundTruthColumns, detections: Detections, tasks: Sequence[str]
    ) -> None:
        check_detections(detections, ground_truth, tasks, any_scores=self.any_scores)

    def _evaluation(
        self,
        ground_truth: GroundTruthColumns,
        detections: Detections,
        task: str,
        assignment_before: Assignment | None = None,
    ) -> TaskEvaluation:
        return TaskEvaluation(
            ground_truth=ground_truth.of_task(task),
            detections=detections.of_task(task),
            task=task,
            official=self.engine == "lvis",
            limits=self.limits,
            class_agnostic=self.class_agnostic,
            assignment_before=assignment_before,
        )

    def score(
        self,
        ground_truth: GroundTruthColumns,
        detections: Detections,
        tasks: Sequence[str],
        *,
        train_images: Mapping[int, int],
        analyze: bool = True,
    ) -> EvaluationResult:
        """Score detections and log the metrics.

        Args:
            ground_truth: The annotations, with all fields of the LVIS format.
            detections: Detections in its images.
            tasks: Any of "bbox" and "segm".
            train_images: Training images by category id, for annotations without counts.
            analyze: Whether to compute the long-tail analyses.

        Raises:
            ValueError: detections that cannot be scored, see ``check_detections``.
        """
        self._check(ground_truth, detections, tasks)
        result = EvaluationResult(images=ground_truth.table.images)
        assignment: Assignment | None = None
        for task in sorted(tasks):
            evaluation = self._evaluation(ground_truth, detections, task, assignment)
            logger.info(f"Evaluating {len(evaluation.detections)} detections, task {task} ...")
            scores = evaluation.scores()
            metrics, rows = dict(scores.metrics), []
            if not self.class_agnostic:
                rows = category_results(ground_truth.table, scores, train_images)
                metrics |= group_counts(rows)
            result.metrics[task], result.categories[task] = metrics, rows
            _log(task, metrics, rows)
            if analyze and rows:
                chosen, result.thresholds[task] = evaluation.thresholds(rows)
                logger.info(thresholds_text(chosen))
                # Masks first, which is the order in reports.
                result.analyses.insert(0, evaluation.analysis(metrics, rows, chosen))
                assignment = evaluation.assignment
        return result


class ReportWriter(Protocol):
    """Function that writes a report, such as ``d2_seesaw.report.write_evaluation_report``."""

    def __call__(
        self,
        path: str,
        analyses: Sequence[LongTailAnalysis],
        *,
        images: Sequence[Mapping[str, Any]],
        image_root: str | None,
    ) -> object:
        """Write a report.

        Args:
            path: HTML file to write.
            analyses: Analyses of the tasks, masks first.
            images: Images of the annotation file.
            image_root: Folder of the images, if known.
        """
        ...


@dataclass(frozen=True)
class EvaluationResult:
    """Result of scoring detections.

    Attributes:
        metrics: ``{task: {metric: percent}}``. If categories are distinguished, there are for each
            frequency group g the counts ``evaluated-g`` and ``categories-g`` too.
        categories: Rows of the categories by task; empty if categories are not distinguished.
        analyses: Long-tail analyses of the tasks, masks first; empty if they were not requested or
            categories are not distinguished.
        images: Images of the annotation file.
        thresholds: Operating points by task, for the same tasks as ``analyses``.
    """

    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    categories: dict[str, list[CategoryResult]] = field(default_factory=dict)
    analyses: list[LongTailAnalysis] = field(default_factory=list)
    images: Sequence[Mapping[str, Any]] = ()
    thresholds: dict[str, TaskThresholds] = field(default_factory=dict)

    def split_thresholds(self, dataset: str) -> SplitThresholds | None:
        """Return what is written beside a checkpoint; None without analyses.

        Args:
            dataset: Name of the evaluated dataset.
        """
        if not self.analyses:
            return None
        first = self.analyses[0]
        return SplitThresholds(dataset, first.ground_truth, first.images, self.thresholds)

    def write(
        self, folder: str, *, report: ReportWriter | None = None, image_root: str | None = None
    ) -> None:
        """Write the tables of categories, the analyses and the report into a folder.

        The files are ``per_category_<task>``, ``thresholds_<task>`` and ``confusion_<task>`` with
        the suffixes ``.csv`` and, except for confusions, ``.json``; and ``longtail_<task>.json``.
        Those of an earlier evaluation are removed first, also of tasks that this one lacks.

        Args:
            folder: Folder for the files.
            report: Function that writes ``longtail.html``. No report is written if None, or if
                there are no analyses.
            image_root: Folder of the images, for the pictures of the report.
        """
        remove_scores(folder)
        for task, rows in self.categories.items():
            if rows:
                write_category_results(rows, folder, task)
        for analysis in self.analyses:
            write_analysis(folder, analysis)
            write_confusion_matrix(os.path.join(folder, f"confusion_{analysis.task}.csv"), analysis)
            if analysis.thresholds is not None:
                rows = analysis.thresholds.categories
                write_category_results(rows, folder, analysis.task, name="thresholds")
        if report is not None and self.analyses:
            path = os.path.join(folder, REPORT_NAME)
            report(path, self.analyses, images=self.images, image_root=image_root)
            logger.info(f"Long-tail report: {path}")


def _log(task: str, result: Mapping[str, float], rows: list[CategoryResult]) -> None:
    counts = group_counts_text(result) or "categories are not distinguished"
    tables = metric_tables(result)
    logger.info(f"Results for {task}:\n{tables}\nCategories with ground truth: {counts}")
    if 0 < len(rows) <= _LONGEST_LOGGED_TABLE:
        logger.info(f"Scores of each category for {task}:\n{row_table(most_frequent_first(rows))}")


def check_tasks(tasks: Sequence[str] | None) -> None:
    """Raise a ``ValueError`` unless all ``tasks`` are known."""
    unknown = [task for task in tasks or () if task not in TASKS]
    if unknown:
        raise ValueError(f"tasks must be among {TASKS}, got {unknown}")
