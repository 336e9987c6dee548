"""Scores of label maps from counts of pixels: of every class, and of rare to frequent ones.

Shapes in this module:
    C: classes; index C stands for pixels that do not count
    H, W: size of an image
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from d2_seesaw.data.frequency import GROUPS, pixel_frequency_groups
from d2_seesaw.evaluation.tables import format_score, group_counts, text_table

_BOUNDARY_WIDTH = 0.02  # of the diagonal of an image
_OUTSIDE = np.iinfo(np.uint16).max


@dataclass(frozen=True)
class SegmentationScores:
    """``(C,)`` scores in percent; ``nan`` for classes without a pixel in the ground truth.

    Attributes:
        iou: Intersection over union.
        recall: Share of a class's pixels that are predicted as it, its pixel accuracy.
        precision: Share of the pixels predicted as a class that are of it; also ``nan`` for a class
            that is never predicted.
        boundary_iou: IoU of the boundary regions, ``nan`` if they were not counted.
        gt_pixels: Pixels of the ground truth.
    """

    iou: np.ndarray
    recall: np.ndarray
    precision: np.ndarray
    boundary_iou: np.ndarray
    gt_pixels: np.ndarray


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """``(C + 1, C + 1)`` pixels, by predicted class (rows) and true class (columns).

    Args:
        predicted: ``(H, W)`` classes in ``[0, C]``.
        labels: ``(H, W)`` classes in ``[0, C]``.
        num_classes: C.
    """
    size = num_classes + 1
    pairs = size * predicted.ravel().astype(np.int64) + labels.ravel()
    return np.bincount(pairs, minlength=size**2).reshape(size, size)


def boundary_confusion_matrix(
    predicted: np.ndarray, labels: np.ndarray, num_classes: int
) -> np.ndarray:
    """As :func:`confusion_matrix`, but of boundaries: what is no boundary of a map is C there.

    The boundary region of a class holds its pixels that are at most 2% of the image's diagonal away
    from one of another class or from outside the image, in rows and in columns (Cheng et al.,
    "Boundary IoU", CVPR 2021, https://arxiv.org/abs/2103.16562). Both maps end where the ground
    truth does not count.
    """
    unlabeled = labels == num_classes
    maps = []
    for classes in (np.where(unlabeled, num_classes, predicted), labels):
        maps.append(np.where(_on_boundary(classes), classes, num_classes))
    return confusion_matrix(maps[0], maps[1], num_classes)


def _on_boundary(classes: np.ndarray) -> np.ndarray:
    """Where the square around a pixel holds several classes, or reaches beyond the image."""
    distance = max(1, round(_BOUNDARY_WIDTH * float(np.hypot(*classes.shape))))
    padded = cv2.copyMakeBorder(
        classes.astype(np.uint16), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=(float(_OUTSIDE),)
    )
    square = np.ones((3, 3), dtype=np.uint8)
    lowest = cv2.erode(padded, square, iterations=distance)
    highest = cv2.dilate(padded, square, iterations=distance)
    return (lowest != highest)[1:-1, 1:-1]


def segmentation_scores(confusion: np.ndarray, boundaries: np.ndarray) -> SegmentationScores:
    """Scores of all classes.

    Args:
        confusion: ``(C + 1, C + 1)``, the sum of :func:`confusion_matrix` over images.
        boundaries: ``(C + 1, C + 1)``, that of :func:`boundary_confusion_matrix`, or zeros.
    """
    valid = confusion[:-1, :-1]
    found, predicted, true = valid.diagonal(), valid.sum(axis=1), valid.sum(axis=0)
    # Of boundaries, what is none in the other map counts as well.
    common = boundaries.diagonal()[:-1]
    either = (boundaries.sum(axis=0) + boundaries.sum(axis=1))[:-1] - common
    present = true > 0
    return SegmentationScores(
        iou=_percent(found, predicted + true - found, present),
        recall=_percent(found, true, present),
        precision=_percent(found, predicted, present),
        boundary_iou=_percent(common, either, present),
        gt_pixels=true,
    )


def _percent(part: np.ndarray, whole: np.ndarray, present: np.ndarray) -> np.ndarray:
    result = np.full(len(part), np.nan)
    return np.divide(100.0 * part, whole, out=result, where=present & (whole > 0))


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
        for group in GROUPS:
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
