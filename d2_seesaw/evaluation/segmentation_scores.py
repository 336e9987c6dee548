"""Scores of a label map, class by class, from counts of pixels.

Shapes in this module:
    C: classes; index C stands for pixels that do not count
    H, W: size of an image
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

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
    unlabelled = labels == num_classes
    maps = []
    for classes in (np.where(unlabelled, num_classes, predicted), labels):
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
