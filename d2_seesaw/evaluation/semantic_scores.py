"""Scores of every class of semantic segmentation, and of the rare, common and frequent ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from d2_seesaw.data.pixel_frequency import pixel_frequency_groups
from d2_seesaw.evaluation.lvis.annotations import FREQUENCIES
from d2_seesaw.evaluation.result_table import format_score, text_table
from d2_seesaw.evaluation.segmentation_scores import SegmentationScores
from d2_seesaw.evaluation.tables import group_counts


@dataclass(frozen=True)
class ClassResult:
    """One row of the per-class files. Scores are in percent, ``nan`` without ground truth.

    Attributes:
        class_id: Index of the class.
        name: Its name.
        frequency: "r", "c" or "f", by its pixels.
        train_pixels: Pixels of the training split, if known.
        gt_pixels: Pixels of the evaluated split.
        IoU: Intersection over union.
        recall: Its pixel accuracy, which Detectron2 calls ACC.
        precision: ``nan`` too if the class is never predicted.
        BoundaryIoU: ``nan`` too if not asked for.
    """

    class_id: int
    name: str
    frequency: str
    train_pixels: int | None
    gt_pixels: int
    IoU: float
    recall: float
    precision: float
    BoundaryIoU: float


def class_results(
    names: Sequence[str],
    scores: SegmentationScores,
    train_pixels: np.ndarray | None,
    group_bounds: tuple[float, float],
) -> list[ClassResult]:
    """One row per class, in their order.

    Args:
        names: C names.
        scores: those of the classes.
        train_pixels: ``(C,)`` pixels of the training split, by which the groups go; if None, by
            those of the ground truth.
        group_bounds: shares of all pixels from which on a class is common, and frequent.
    """
    pixels = scores.gt_pixels if train_pixels is None else train_pixels
    groups = pixel_frequency_groups(pixels, group_bounds)
    return [
        ClassResult(
            class_id=i,
            name=name,
            frequency=groups[i],
            train_pixels=None if train_pixels is None else int(train_pixels[i]),
            gt_pixels=int(scores.gt_pixels[i]),
            IoU=float(scores.iou[i]),
            recall=float(scores.recall[i]),
            precision=float(scores.precision[i]),
            BoundaryIoU=float(scores.boundary_iou[i]),
        )
        for i, name in enumerate(names)
    ]


def group_metrics(rows: Sequence[ClassResult]) -> dict[str, float]:
    """The mIoU and mACC (mean recall) of each group, and of how many classes they are the mean."""
    metrics = {}
    for metric, score in (("mIoU", "IoU"), ("mACC", "recall")):
        for group in FREQUENCIES:
            of_group = [getattr(row, score) for row in rows if row.frequency == group]
            metrics[f"{metric}{group}"] = _mean(of_group)
    return {**metrics, **group_counts(rows, "IoU")}


def boundary_metrics(rows: Sequence[ClassResult]) -> dict[str, float]:
    """Boundary IoU: its mean, and by class under the names that Detectron2 gives."""
    metrics = {"mBoundaryIoU": _mean([row.BoundaryIoU for row in rows])}
    for row in rows:
        metrics[f"BoundaryIoU-{row.name}"] = row.BoundaryIoU
        metrics[f"min(IoU, B-Iou)-{row.name}"] = min(row.IoU, row.BoundaryIoU)
    return metrics


def class_table(rows: Iterable[ClassResult]) -> str:
    """The rows as text, the classes with most pixels first."""
    by_pixels = sorted(
        rows, key=lambda row: -(row.gt_pixels if row.train_pixels is None else row.train_pixels)
    )
    return text_table(
        ["class", "group", "train pixels", "pixels", "IoU", "recall", "precision"],
        [
            [
                row.name,
                row.frequency,
                "n/a" if row.train_pixels is None else row.train_pixels,
                row.gt_pixels,
                format_score(row.IoU),
                format_score(row.recall),
                format_score(row.precision),
            ]
            for row in by_pixels
        ],
    )


def _mean(scores: Iterable[float]) -> float:
    """Mean of those that are not ``nan``; ``nan`` if there are none."""
    known = [score for score in scores if not math.isnan(score)]
    return sum(known) / len(known) if known else math.nan
