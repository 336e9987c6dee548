"""From detections to LVIS's scores: the engine, the limits, and what is reported and written."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from os import PathLike
from typing import Any

from detectron2.utils.file_io import PathManager

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
from d2_seesaw.evaluation.lvis.rules import METRICS, TASKS
from d2_seesaw.evaluation.predictions.detections import Detections
from d2_seesaw.evaluation.predictions.files import read_results, with_ids_of
from d2_seesaw.evaluation.predictions.limits import DetectionLimits
from d2_seesaw.evaluation.tables import (
    CategoryResult,
    category_results,
    category_table,
    format_score,
    group_counts,
    group_counts_text,
    text_table,
    write_category_results,
)

ENGINES = ("sparse", "lvis")
_LONGEST_LOGGED_TABLE = 30

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskEvaluation:
    """Detections of one task. Scores and analysis share what they both need.

    Attributes:
        ground_truth: The annotations, with all that the LVIS format requires.
        detections: Of its images.
        task: "bbox" or "segm".
        official: Whether the scores are those of the ``lvis`` package.
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
        """The metrics, and the scores of the categories."""
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
        """What the scores do not show. The categories must be told apart.

        Args:
            metrics: In percent, with the counts of groups.
            categories: One row each, in order of the id.
        """
        names = label_objects(self.ground_truth, self.detections, self.task, limits=self.limits)
        analysis = LongTailAnalysis(
            task=self.task,
            ground_truth=self.ground_truth.fingerprint(),
            images=len(self.ground_truth.image_ids),
            detections=len(self.detections),
            metrics=metrics,
            categories=categories,
            confusions=object_confusions(self.ground_truth, names),
            calibration=reliability_by_group(self.ground_truth, self._matched),
        )
        return replace(
            analysis,
            examples=confusion_examples(analysis, self.ground_truth, self.detections, names),
        )


@dataclass(frozen=True)
class LVISScoring:
    """How to score detections.

    Attributes:
        engine: "sparse", our own, or "lvis", the official package, which is much slower, takes
            gigabytes more, and counts a detection that matches annotation 0 as wrong.
        limits: Which detections count.
        class_agnostic: Whether a detection may match an object of any category.
    """

    engine: str = "sparse"
    limits: DetectionLimits = field(default_factory=DetectionLimits)
    class_agnostic: bool = False

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ValueError(f"engine must be among {ENGINES}, got {self.engine!r}")
        for limit in (self.limits.per_image, self.limits.per_category):
            if limit is not None and limit < 1:
                raise ValueError(f"A limit of detections must be at least 1, got {limit}")

    def probe(self) -> None:
        """As ``probe_lvis``, for the engine."""
        if self.engine == "lvis":
            probe_lvis()
        else:
            probe(LVISScoring().scores)

    def scores(
        self, ground_truth: GroundTruthColumns, detections: Detections, task: str
    ) -> LVISScores:
        """Score ``detections`` in ``task``, "bbox" or "segm"."""
        return self._evaluation(ground_truth, detections, task).scores()

    def _evaluation(
        self, ground_truth: GroundTruthColumns, detections: Detections, task: str
    ) -> TaskEvaluation:
        return TaskEvaluation(
            ground_truth=ground_truth,
            detections=detections,
            task=task,
            official=self.engine == "lvis",
            limits=self.limits,
            class_agnostic=self.class_agnostic,
        )

    def report(
        self,
        ground_truth: GroundTruthColumns,
        detections: Detections,
        tasks: Sequence[str],
        *,
        train_images: Mapping[int, int],
        output_dir: str | None,
        image_root: str | None = None,
    ) -> dict[str, dict[str, float]]:
        """Score, log, and write ``per_category_<task>``, ``longtail_<task>.json`` and the report.

        Args:
            ground_truth: The annotations, with all that the LVIS format asks for.
            detections: Of its images and categories.
            tasks: Any of "bbox" and "segm".
            train_images: Training images by category id, where the annotations do not say.
            output_dir: Where to write; nothing is written if None, nor if all categories are one.
            image_root: Folder of the images, if the report shall show some.

        Returns:
            ``{task: {metric: percent}}``, and where categories are told apart, for each frequency
            group g how many were ``evaluated-g`` of all ``categories-g``.
        """
        results = {}
        analyses = []
        for task in sorted(tasks):
            logger.info(f"Evaluating {len(detections)} detections, task {task} ...")
            evaluation = self._evaluation(ground_truth, detections, task)
            scores = evaluation.scores()
            rows: list[CategoryResult] = []
            results[task] = dict(scores.metrics)
            if not self.class_agnostic:
                rows = category_results(ground_truth.table, scores, train_images)
                results[task] |= group_counts(rows)
            _log(task, results[task], rows)
            if output_dir and rows:
                write_category_results(rows, output_dir, task)
                analyses.append(evaluation.analysis(results[task], rows))
                write_analysis(output_dir, analyses[-1])
        if output_dir and analyses:
            images = ground_truth.table.images
            masks_first = analyses[::-1]  # as `d2-seesaw report` shows them
            logger.info(f"Long-tail report: {_report(output_dir, masks_first, images, image_root)}")
        return results


def _report(
    folder: str,
    analyses: Sequence[LongTailAnalysis],
    images: Sequence[Mapping[str, Any]],
    image_root: str | None,
) -> str:
    """Write the report, with pictures where there is a folder of them."""
    # Here, because the pages import the evaluation that they show.
    from d2_seesaw.report.evaluation_page import write_report
    from d2_seesaw.report.pictures import ExamplePictures

    if image_root is None or not os.path.isdir(image_root):
        return write_report(folder, analyses)
    pictures = ExamplePictures(images, image_root)
    path = write_report(folder, analyses, pictures=pictures)
    if pictures.failures:
        logger.warning(
            f"{len(pictures.failures)} pictures of the long-tail report could not be drawn, the "
            f"first of {pictures.failures[0]}"
        )
    return path


def _log(task: str, result: Mapping[str, float], rows: list[CategoryResult]) -> None:
    table = text_table(METRICS, [[format_score(result[m]) for m in METRICS]])
    counts = group_counts_text(result) or "all as one category"
    logger.info(f"Results for {task}:\n{table}\nCategories with ground truth: {counts}")
    if 0 < len(rows) <= _LONGEST_LOGGED_TABLE:
        logger.info(f"Scores of each category for {task}:\n{category_table(rows)}")


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
    image_root: str | None = None,
) -> dict[str, dict[str, float]]:
    """Score detections that were saved.

    Args:
        results: A JSON file in the COCO results format, with "mask_score" where masks have their
            own, or the ``instances_predictions.npz`` of an evaluation.
        annotations: A JSON file in the format of LVIS or COCO.
        tasks: Any of "bbox" and "segm"; by default those that the detections allow.
        scoring: How; by default as LVIS.
        train_image_counts: Training images by category id, or the training annotations in which to
            count them: they decide the frequency groups. By default the annotations do.
        registered_counts: Training images by category id, for annotations without groups: those of
            ``registered_train_images``.
        predicted_images: ``images.json`` of ``d2-seesaw predict``, for results with image ids of
            their own: images are then told by their file names, see ``with_ids_of``.
        output_dir: Folder for the scores of every category and the long-tail report; nothing is
            written if None.
        image_root: Folder of the images, if the report shall show some.

    Returns:
        As ``LongTailLVISEvaluator.evaluate``.

    Raises:
        ValueError: a file is of another kind, does not fit the other, or lacks what a task needs.
    """
    check_tasks(tasks)
    detections = read_results(results)
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
    if not len(table.image):
        raise ValueError(f"{annotations} has no annotations to score against")
    if output_dir:
        PathManager.mkdirs(output_dir)
    return (scoring or LVISScoring()).report(
        GroundTruthColumns.from_table(table),
        detections,
        tasks or possible,
        train_images=registered_counts or {},
        output_dir=output_dir,
        image_root=image_root,
    )


def check_tasks(tasks: Sequence[str] | None) -> None:
    """Raise a ``ValueError`` unless all ``tasks`` are known."""
    unknown = [task for task in tasks or () if task not in TASKS]
    if unknown:
        raise ValueError(f"tasks must be among {TASKS}, got {unknown}")
