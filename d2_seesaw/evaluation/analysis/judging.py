"""Annotated objects and detections of single images, with the kind of each, for looking at them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from d2_seesaw.data.annotations.table import AnnotationTable
from d2_seesaw.data.frequency import UNKNOWN_FREQUENCY
from d2_seesaw.data.rle import MaskColumns
from d2_seesaw.evaluation.analysis import analysis_path, check_annotations, read_analysis
from d2_seesaw.evaluation.analysis.error_kinds import ErrorKinds, error_kinds
from d2_seesaw.evaluation.lvis.annotations import TrainImageCounts, read_evaluation_table
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns, index_of
from d2_seesaw.evaluation.lvis.rules import TASKS
from d2_seesaw.evaluation.predictions.detections import EMPTY, Detections
from d2_seesaw.evaluation.predictions.files import RESULTS
from d2_seesaw.evaluation.predictions.limits import DetectionLimits
from d2_seesaw.evaluation.predictions.predicted_images import annotated_sizes
from d2_seesaw.evaluation.predictions.results_file import ResultsFile
from d2_seesaw.evaluation.predictions.validation import check_detections


@dataclass(frozen=True)
class Entry:
    """Annotated object or detection of an image.

    Attributes:
        category: Index of its category.
        kind: Of ``error_kinds.KINDS``; "" if there are no results.
        box: Left, top, width and height in pixels.
        segmentation: Polygons, a compressed run-length encoding, or None.
        score: Score of a detection, or of the detection that labels an object; None without one.
        other: Index of the category for which an object is taken, or of the object that a confused
            detection belongs to; None for other kinds.
        crowd: Whether an object stands for a crowd.
    """

    category: int
    kind: str
    box: list[float]
    segmentation: Any = None
    score: float | None = None
    other: int | None = None
    crowd: bool = False

    def kind_at(self, min_score: float, *, is_object: bool) -> str:
        """Return the kind if there were no detections below ``min_score``."""
        if is_object and self.score is not None and self.score < min_score:
            return "missed"
        return self.kind


@dataclass(frozen=True)
class JudgedDataset:
    """Annotations of a dataset with detections in its images, each with its kind.

    Attributes:
        table: The annotations, with all fields of the LVIS format.
        detections: The detections; empty without results.
        task: "bbox" or "segm": decides matches and scores.
        kinds: Kinds of objects and detections, None without results.
    """

    table: AnnotationTable
    detections: Detections = EMPTY
    task: str = "bbox"
    kinds: ErrorKinds | None = None

    @classmethod
    def judge(
        cls,
        table: AnnotationTable,
        detections: Detections,
        task: str,
        limits: DetectionLimits | None = None,
    ) -> JudgedDataset:
        """Compare detections with annotations.

        Args:
            table: The annotations, with all fields of the LVIS format.
            detections: Detections in its images. For "segm", those without a mask are left out.
            task: "bbox" or "segm".
            limits: Detections that LVIS scores; by default 300 of an image.

        Raises:
            ValueError: detections that cannot be scored, see ``check_detections``.
        """
        ground_truth = GroundTruthColumns.from_table(table)
        check_detections(detections, ground_truth, [task])
        detections, limits = detections.of_task(task), limits or DetectionLimits()
        kinds = error_kinds(ground_truth.of_task(task), detections, task, limits=limits)
        return cls(table, detections, task, kinds)

    @property
    def names(self) -> list[str]:
        """Names of the categories."""
        return [category["name"] for category in self.table.categories]

    @property
    def groups(self) -> list[str]:
        """Frequency groups of the categories: "r", "c", "f", or "n/a" if unknown."""
        return [str(c.get("frequency", UNKNOWN_FREQUENCY)) for c in self.table.categories]

    @cached_property
    def _category_of_detection(self) -> np.ndarray:
        ids = np.array([category["id"] for category in self.table.categories])
        return index_of(self.detections.category_ids, ids)

    @cached_property
    def _objects_of_image(self) -> list[np.ndarray]:
        return _split(self.table.image, len(self.table.images))

    @cached_property
    def _detections_of_image(self) -> list[np.ndarray]:
        ids = np.array([image["id"] for image in self.table.images])
        scores = self.detections.scores_of(self.task)
        best_first = np.argsort(-scores, kind="stable")
        best_first = best_first[self._category_of_detection[best_first] >= 0]
        images = index_of(self.detections.image_ids[best_first], ids)
        return [best_first[rows] for rows in _split(images, len(ids))]

    def objects(self, image: int) -> list[Entry]:
        """Return the objects of an image of ``table.images``, in the order of the file."""
        table, kinds, entries = self.table, self.kinds, []
        scores = self.detections.scores_of(self.task)
        for row in self._objects_of_image[image].tolist():
            label = -1 if kinds is None else int(kinds.labels[row])
            kind = "" if kinds is None else str(kinds.objects[row])
            entries.append(
                Entry(
                    category=int(table.category[row]),
                    kind=kind,
                    box=table.box[row].tolist(),
                    segmentation=table.segmentation(row),
                    score=None if label < 0 else float(scores[label]),
                    other=int(self._category_of_detection[label]) if kind == "confused" else None,
                    crowd=bool(table.crowd[row]),
                )
            )
        return entries

    def found(self, image: int, min_score: float = 0.0, limit: int | None = None) -> list[Entry]:
        """Return the detections in an image of ``table.images``, those with high scores first.

        Args:
            image: Index of the image.
            min_score: Lowest score.
            limit: Largest number of detections.
        """
        rows = self._detections_of_image[image]
        scores = self.detections.scores_of(self.task)
        rows = rows[scores[rows] >= min_score][:limit]
        return [self._detection(row) for row in rows.tolist()]

    def _detection(self, row: int) -> Entry:
        kinds, detections = self.kinds, self.detections
        with_object = -1 if kinds is None else int(kinds.confused_with[row])
        segmentation = _mask(detections.masks, row)
        return Entry(
            category=int(self._category_of_detection[row]),
            kind="" if kinds is None else str(kinds.detections[row]),
            box=_box(detections, row, segmentation),
            segmentation=segmentation,
            score=float(detections.scores_of(self.task)[row]),
            other=int(self.table.category[with_object]) if with_object >= 0 else None,
        )


def read_judged(
    annotations: str | PathLike[str],
    results: str | PathLike[str] | None = None,
    *,
    task: str | None = None,
    train_image_counts: TrainImageCounts | None = None,
    registered_counts: Mapping[int, int] | None = None,
    predicted_images: str | PathLike[str] | None = None,
    limits: DetectionLimits | None = None,
) -> JudgedDataset:
    """Read annotations, and detections to compare with them.

    Args:
        annotations: JSON file in the format of LVIS or COCO.
        results: JSON file in the COCO results format, or the ``instances_predictions.npz`` of an
            evaluation; None for the annotations alone.
        task: "bbox" or "segm"; by default "segm" if objects and detections have masks.
        train_image_counts: Training images by category id, or the training annotations, see
            :func:`~d2_seesaw.evaluation.lvis.annotations.read_evaluation_table`.
        registered_counts: Training images by category id, for a file without frequency groups.
        predicted_images: ``images.json`` of ``d2-seesaw predict``, for results with ids of their
            own; by default it is found beside the results, see ``ResultsFile.find``.
        limits: Detections that LVIS scores; by default 300 of an image.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a file has the wrong format, or does not fit the other; for the detections of an
            evaluation, also annotations other than those of the evaluation.
    """
    if task not in (None, *TASKS):
        raise ValueError(f"task must be among {TASKS}, got {task!r}")
    table = read_evaluation_table(
        str(annotations),
        train_image_counts=train_image_counts,
        registered_counts=registered_counts,
        with_masks=results is not None and task == "segm",
    )
    if results is None:
        return JudgedDataset(table)
    source = ResultsFile.find(results, predicted_images)
    detections = source.with_ids_of(source.read(annotated_sizes(annotations)), table)
    possible = detections.tasks if len(detections) else TASKS
    if task is None:
        has_masks = bool(table.has_segmentation.any()) and "segm" in possible
        task = "segm" if has_masks else "bbox"
    if task not in possible:
        raise ValueError(f"{results} has detections for {possible}, not for {task!r}")
    beside = Path(analysis_path(Path(results).parent, task))
    if Path(results).name in RESULTS and beside.is_file():
        truth = GroundTruthColumns.from_table(table).of_task(task)
        check_annotations(read_analysis(beside), beside, truth.fingerprint())
    return JudgedDataset.judge(table, detections, task, limits)


def _split(images: np.ndarray, number: int) -> list[np.ndarray]:
    """Return the rows of each image, in their order."""
    order = np.argsort(images, kind="stable")
    return np.split(order, np.searchsorted(images[order], np.arange(1, number)))[:number]


def _mask(masks: MaskColumns | None, row: int) -> dict[str, Any] | None:
    if masks is None:
        return None
    (rle,) = masks.rles(np.array([row]))
    return {**rle, "counts": rle["counts"].decode()} if rle["counts"] else None


def _box(detections: Detections, row: int, segmentation: dict[str, Any] | None) -> list[float]:
    """Return the box of a detection, or the bounding box of its mask."""
    if detections.boxes is not None:
        return detections.boxes[row].astype(float).tolist()
    from pycocotools import mask as mask_utils

    encoded: Any = segmentation
    return mask_utils.toBbox(encoded).tolist()
