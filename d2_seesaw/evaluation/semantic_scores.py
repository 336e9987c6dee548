"""Scores of label maps from pixel counts: of each class and of each frequency group.

Shapes in this module:
    C: classes; index C stands for ignored pixels
    H, W: size of an image
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np

from d2_seesaw.data.frequency import GROUPS, pixel_frequency_groups
from d2_seesaw.evaluation.tables import Column, group_counts

_BOUNDARY_WIDTH = 0.02  # of the diagonal of an image
_OUTSIDE = np.iinfo(np.uint16).max


@dataclass(frozen=True)
class SegmentationScores:
    """``(C,)`` scores in percent; ``nan`` for classes without a pixel in the ground truth.

    Attributes:
        iou: Intersection over union.
        recall: Share of the pixels of a class that are predicted as it (pixel accuracy).
        precision: Share of the pixels predicted as a class that belong to it; also ``nan`` for a
            class that is never predicted.
        boundary_iou: IoU of the boundary regions, ``nan`` if they were not counted.
        gt_pixels: Number of ground-truth pixels.
    """

    iou: np.ndarray
    recall: np.ndarray
    precision: np.ndarray
    boundary_iou: np.ndarray
    gt_pixels: np.ndarray


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Count pixels, ``(C + 1, C + 1)``, by predicted class (rows) and true class (columns).

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
    """Compute :func:`confusion_matrix` of the boundary regions; other pixels of a map become C.

    The boundary region of a class holds its pixels within 2% of the image diagonal of another class
    or of the edge of the image, measured in rows and columns (Cheng et al., "Boundary IoU", CVPR
    2021, https://arxiv.org/abs/2103.16562). Ignored pixels bound the regions of both maps.
    """
    unlabeled = labels == num_classes
    maps = []
    for classes in (np.where(unlabeled, num_classes, predicted), labels):
        maps.append(np.where(_on_boundary(classes), classes, num_classes))
    return confusion_matrix(maps[0], maps[1], num_classes)


def _on_boundary(classes: np.ndarray) -> np.ndarray:
    """Return whether the square around a pixel holds several classes or leaves the image."""
    distance = max(1, round(_BOUNDARY_WIDTH * float(np.hypot(*classes.shape))))
    padded = cv2.copyMakeBorder(
        classes.astype(np.uint16), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=(float(_OUTSIDE),)
    )
    square = np.ones((3, 3), dtype=np.uint8)
    lowest = cv2.erode(padded, square, iterations=distance)
    highest = cv2.dilate(padded, square, iterations=distance)
    return (lowest != highest)[1:-1, 1:-1]


def segmentation_scores(confusion: np.ndarray, boundaries: np.ndarray) -> SegmentationScores:
    """Compute the scores of all classes.

    Args:
        confusion: ``(C + 1, C + 1)``, the sum of :func:`confusion_matrix` over images.
        boundaries: ``(C + 1, C + 1)``, the sum of :func:`boundary_confusion_matrix`, or zeros.
    """
    valid = confusion[:-1, :-1]
    found, predicted, true = valid.diagonal(), valid.sum(axis=1), valid.sum(axis=0)
    # A boundary pixel counts in the union even if the other map has no boundary there.
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
        name: Name of the class.
        frequency: "r", "c" or "f", by its pixels.
        train_pixels: Number of pixels in the training split, if known.
        gt_pixels: Number of pixels in the evaluated split.
        IoU: Intersection over union.
        recall: Pixel accuracy, which Detectron2 calls ACC.
        precision: Also ``nan`` if the class is never predicted.
        BoundaryIoU: Also ``nan`` if it was not requested.
    """

    class_id: Annotated[int, Column("id", "text", logged=False)]
    name: Annotated[str, Column("class", "text")]
    frequency: Annotated[str, Column("group", "group")]
    train_pixels: Annotated[int | None, Column("training pixels", "count")]
    gt_pixels: Annotated[int, Column("evaluated pixels", "count")]
    IoU: Annotated[float, Column("IoU", "score")]
    recall: Annotated[float, Column("recall", "score")]
    precision: Annotated[float, Column("precision", "score")]
    BoundaryIoU: Annotated[float, Column("Boundary IoU", "score", logged=False)]


def class_results(
    names: Sequence[str],
    scores: SegmentationScores,
    train_pixels: np.ndarray | None,
    group_bounds: tuple[float, float],
) -> list[ClassResult]:
    """Return one row per class, in the order of the classes.

    Args:
        names: C names.
        scores: Scores of the classes.
        train_pixels: ``(C,)`` pixels of the training split, which decide the groups; if None, the
            pixels of the ground truth do.
        group_bounds: Minimum shares of all pixels of a common and of a frequent class.
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
    """Compute mIoU and mACC (mean recall) of each group, and the counts of ``group_counts``."""
    metrics = {}
    for metric, score in (("mIoU", "IoU"), ("mACC", "recall")):
        for group in GROUPS:
            group_scores = [getattr(row, score) for row in rows if row.frequency == group]
            metrics[f"{metric}{group}"] = _mean(group_scores)
    return {**metrics, **group_counts(rows, "IoU")}


def boundary_metrics(rows: Sequence[ClassResult]) -> dict[str, float]:
    """Return the mean Boundary IoU, and that of each class under Detectron2's names."""
    metrics = {"mBoundaryIoU": _mean([row.BoundaryIoU for row in rows])}
    for row in rows:
        metrics[f"BoundaryIoU-{row.name}"] = row.BoundaryIoU
        metrics[f"min(IoU, B-Iou)-{row.name}"] = min(row.IoU, row.BoundaryIoU)
    return metrics


def most_pixels_first(rows: Iterable[ClassResult]) -> list[ClassResult]:
    """Sort classes by the pixels that decide their group, in descending order."""
    return sorted(
        rows, key=lambda row: -(row.gt_pixels if row.train_pixels is None else row.train_pixels)
    )


def _mean(scores: Iterable[float]) -> float:
    """Return the mean of the scores that are not ``nan``, or ``nan`` if there are none."""
    known = [score for score in scores if not math.isnan(score)]
    return sum(known) / len(known) if known else math.nan
