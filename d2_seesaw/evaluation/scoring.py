"""Scoring of detections by LVIS's rules: from detections to an :class:`EvaluationResult`."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from os import PathLike
from typing import Any, Protocol

from d2_seesaw.evaluation.analysis import LongTailAnalysis, write_analysis
from d2_seesaw.evaluation.analysis.calibration import reliability_by_group
from d2_seesaw.evaluation.analysis.confusion import (
    confusion_examples,
    label_objects,
    object_confusions,
)
from d2_seesaw.evaluation.lvis.annotations import TrainImageCounts, read_evaluation_table
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
from d2_seesaw.evaluation.predictions.files import read_results
from d2_seesaw.evaluation.predictions.limits import DetectionLimits
from d2_seesaw.evaluation.predictions.predicted_images import (
    image_sizes,
    with_categories_of,
    with_ids_of,
)
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

ENGINES = ("sparse", "lvis")
REPORT_NAME = "longtail.html"
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
    """

    ground_truth: GroundTruthColumns
    detections: Detections
    task: str
    official: bool
    limits: DetectionLimits
    class_agnostic: bool

    @cached_property
    def _matched(self) -> MatchedDetections:
        return match_detections(
            self.ground_truth,
            self.detections,
            self.task,
            limits=self.limits,
            class_agnostic=self.class_agnostic,
        )

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

    def analysis(
        self, metrics: dict[str, float], categories: list[CategoryResult]
    ) -> LongTailAnalysis:
        """Build the long-tail analysis. Not available with ``class_agnostic=True``.

        Args:
            metrics: In percent, with the counts of the groups.
            categories: One row per category, in order of the id.
        """
        labels = label_objects(self.ground_truth, self.detections, self.task, limits=self.limits)
        analysis = LongTailAnalysis(
            task=self.task,
            ground_truth=self.ground_truth.fingerprint(),
            images=len(self.ground_truth.image_ids),
            detections=len(self.detections),
            metrics=metrics,
            categories=categories,
            confusions=object_confusions(self.ground_truth, labels),
            calibration=reliability_by_group(self.ground_truth, self._matched),
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
        self, ground_truth: GroundTruthColumns, detections: Detections, task: str
    ) -> TaskEvaluation:
        return TaskEvaluation(
            ground_truth=ground_truth.of_task(task),
            detections=detections.of_task(task),
            task=task,
            official=self.engine == "lvis",
            limits=self.limits,
            class_agnostic=self.class_agnostic,
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
        for task in sorted(tasks):
            evaluation = self._evaluation(ground_truth, detections, task)
            logger.info(f"Evaluating {len(evaluation.detections)} detections, task {task} ...")
            scores = evaluation.scores()
            metrics, rows = dict(scores.metrics), []
            if not self.class_agnostic:
                rows = category_results(ground_truth.table, scores, train_images)
                metrics |= group_counts(rows)
            result.metrics[task], result.categories[task] = metrics, rows
            _log(task, metrics, rows)
            if analyze and rows:
                # Masks first, which is the order in reports.
                result.analyses.insert(0, evaluation.analysis(metrics, rows))
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
    """

    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    categories: dict[str, list[CategoryResult]] = field(default_factory=dict)
    analyses: list[LongTailAnalysis] = field(default_factory=list)
    images: Sequence[Mapping[str, Any]] = ()

    def write(
        self, folder: str, *, report: ReportWriter | None = None, image_root: str | None = None
    ) -> None:
        """Write ``per_category_<task>``, ``longtail_<task>.json`` and the report into a folder.

        Args:
            folder: Folder for the files.
            report: Function that writes ``longtail.html``. No report is written if None, or if
                there are no analyses.
            image_root: Folder of the images, for the pictures of the report.
        """
        for task, rows in self.categories.items():
            if rows:
                write_category_results(rows, folder, task)
        for analysis in self.analyses:
            write_analysis(folder, analysis)
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


def evaluate_results_file(
    results: str | PathLike[str],
    annotations: str | PathLike[str],
    *,
    tasks: Sequence[str] | None = None,
    scoring: LVISScoring | None = None,
    train_image_counts: TrainImageCounts | None = None,
    registered_counts: Mapping[int, int] | None = None,
    predicted_images: str | PathLike[str] | None = None,
    output_dir: str | None = None,
    report: ReportWriter | None = None,
    image_root: str | None = None,
) -> dict[str, dict[str, float]]:
    """Score saved detections.

    Args:
        results: A JSON file in the COCO results format, with "mask_score" for masks with their own
            scores, or the ``instances_predictions.npz`` of an evaluation.
        annotations: A JSON file in the format of LVIS or COCO.
        tasks: Any of "bbox" and "segm"; by default those that the detections allow.
        scoring: Engine and limits; by default those of LVIS.
        train_image_counts: Training images by category id, or the training annotations in which to
            count them. They decide the frequency groups; by default the annotations do.
        registered_counts: Training images by category id, for annotations without groups, as
            returned by ``registered_train_images``.
        predicted_images: ``images.json`` of ``d2-seesaw predict``, for results with image ids of
            their own. Images are then matched by file name, see ``with_ids_of``.
        output_dir: Folder for the files of ``EvaluationResult.write``; nothing is written if None.
        report: Function that writes the long-tail report into that folder.
        image_root: Folder of the images, for the pictures of the report.

    Returns:
        The metrics, as returned by ``LongTailLVISEvaluator.evaluate``.

    Raises:
        ValueError: a file has the wrong format, does not fit the other, or lacks data for a task.
    """
    check_tasks(tasks)
    detections = read_results(results, image_size=image_sizes(annotations, predicted_images))
    possible = detections.tasks if len(detections) else tuple(tasks or ("bbox",))
    impossible = set(tasks or ()) - set(possible)
    if impossible:
        raise ValueError(f"{results} has detections for {possible}, not for {sorted(impossible)}")
    table = read_evaluation_table(
        str(annotations),
        train_image_counts=train_image_counts,
        registered_counts=registered_counts,
        with_masks="segm" in (tasks or possible),
    )
    if predicted_images is not None:
        detections = with_ids_of(detections, predicted_images, table.images)
        detections = with_categories_of(detections, predicted_images, table.categories)
    if not len(table.image):
        raise ValueError(f"{annotations} has no annotations to score against")
    result = (scoring or LVISScoring()).score(
        GroundTruthColumns.from_table(table),
        detections,
        tasks or possible,
        train_images=registered_counts or {},
        analyze=bool(output_dir),
    )
    if output_dir:
        result.write(output_dir, report=report, image_root=image_root)
    return result.metrics


def check_tasks(tasks: Sequence[str] | None) -> None:
    """Raise a ``ValueError`` unless all ``tasks`` are known."""
    unknown = [task for task in tasks or () if task not in TASKS]
    if unknown:
        raise ValueError(f"tasks must be among {TASKS}, got {unknown}")
