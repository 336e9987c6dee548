"""Scoring of saved detections, without the model."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

from d2_seesaw.evaluation.analysis.threshold_file import SplitThresholds, write_thresholds
from d2_seesaw.evaluation.lvis.annotations import TrainImageCounts, read_evaluation_table
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns
from d2_seesaw.evaluation.predictions.predicted_images import annotated_sizes
from d2_seesaw.evaluation.predictions.results_file import ResultsFile
from d2_seesaw.evaluation.scoring import EvaluationResult, LVISScoring, ReportWriter, check_tasks

logger = logging.getLogger(__name__)


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
    thresholds_of: str | PathLike[str] | None = None,
    tta: bool = False,
    dataset: str = "",
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
            their own. Images are then matched by file name, see ``ResultsFile.find``, which finds
            it beside the results.
        output_dir: Folder for the files of ``EvaluationResult.write``; nothing is written if None.
        report: Function that writes the long-tail report into that folder.
        image_root: Folder of the images, for the pictures of the report.
        thresholds_of: Checkpoint whose detections these are. Score thresholds are written beside
            it, see ``write_thresholds``.
        tta: Whether the detections were made with test-time augmentation, for ``thresholds_of``.
        dataset: Name of the dataset in the file of thresholds; by default that of the annotations.

    Returns:
        The metrics, as returned by ``LongTailLVISEvaluator.evaluate``.

    Raises:
        ValueError: a file has the wrong format, does not fit the other, or lacks data for a task;
            prediction left out detections that are to be scored, see
            ``ResultsFile.check_complete``; ``thresholds_of`` or ``output_dir`` with
            ``class_agnostic``; or ``thresholds_of`` with ``any_scores``, or with scores that are
            not those of the checkpoint, see ``KnownOrigin.check``.
        OSError: a file cannot be read or written. ``thresholds_of`` is opened before scoring.
    """
    check_tasks(tasks)
    scoring = scoring or LVISScoring()
    if output_dir and scoring.class_agnostic:
        raise ValueError(
            f"categories that are not distinguished have no tables and no report to write to "
            f"{output_dir}: leave out the output folder (--output) or --class-agnostic"
        )
    if thresholds_of is not None:
        _check_thresholds(thresholds_of, scoring)  # scoring may take long
    source = ResultsFile.find(results, predicted_images)
    sha256 = None
    if thresholds_of is not None and (known := source.origin()):
        sha256 = known.check(thresholds_of, tta=tta)
    source.check_complete(scoring.limits)
    detections = source.read(annotated_sizes(annotations))
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
    detections = source.with_ids_of(detections, table)
    if not len(table.image):
        raise ValueError(f"{annotations} has no annotations to score against")
    result = scoring.score(
        GroundTruthColumns.from_table(table),
        detections,
        tasks or possible,
        train_images=registered_counts or {},
        analyze=bool(output_dir or thresholds_of),
    )
    if thresholds_of is not None:
        found = _thresholds(result, dataset or Path(str(annotations)).name)
        path = write_thresholds(thresholds_of, found, tta=tta, sha256=sha256)
        logger.info(f"Score thresholds: {path}")
    if output_dir:
        result.write(output_dir, report=report, image_root=image_root)
    return result.metrics


def _check_thresholds(checkpoint: str | PathLike[str], scoring: LVISScoring) -> None:
    """Check that thresholds can be chosen, and that their checkpoint can be read."""
    if scoring.class_agnostic:
        raise ValueError("categories that are not distinguished have no thresholds")
    if scoring.any_scores:
        raise ValueError(
            f"score thresholds of {checkpoint} apply to its scores in [0, 1], not to those of "
            "--any-scores: leave out one of them"
        )
    if not Path(checkpoint).is_file():
        raise FileNotFoundError(
            f"score thresholds are written beside their checkpoint, and there is no {checkpoint}"
        )
    with open(checkpoint, "rb"):
        pass


def _thresholds(result: EvaluationResult, dataset: str) -> SplitThresholds:
    found = result.split_thresholds(dataset)
    if found is None:
        raise ValueError(f"{dataset} has no category to choose a threshold for")
    return found
