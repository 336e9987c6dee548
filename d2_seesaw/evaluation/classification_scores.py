"""Accuracies of an image classifier: of each class, and of classes with many or few images.

The groups are those of ImageNet-LT (Liu et al., CVPR 2019): many are classes with more than 100
training images, medium with 20 to 100, few with fewer than 20.

Shapes in this module:
    N: evaluated images
    C: classes
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from d2_seesaw.evaluation.tables import Column

MORE_IMAGES_THAN_MEDIUM = 100
LEAST_IMAGES_OF_MEDIUM = 20
SHOT_GROUPS = ("many", "medium", "few")


def shot_group(train_images: int) -> str:
    """Return ``"many"``, ``"medium"`` or ``"few"`` for a class with this many training images."""
    if train_images > MORE_IMAGES_THAN_MEDIUM:
        return "many"
    return "medium" if train_images >= LEAST_IMAGES_OF_MEDIUM else "few"


@dataclass(frozen=True)
class ClassAccuracy:
    """One row of the per-category files.

    Attributes:
        category_id: the class, from 0.
        name: its name.
        frequency: its group: many, medium or few.
        train_images: its training images.
        images: its evaluated images.
        accuracy: percentage of them that are classified correctly (recall); ``nan`` without images.
        precision: percentage of the images classified as it that belong to it; ``nan`` if there are
            none, or if the class has no images.
    """

    category_id: Annotated[int, Column("id", "text", logged=False)]
    name: Annotated[str, Column("class", "text")]
    frequency: Annotated[str, Column("group", "group")]
    train_images: Annotated[int, Column("training images", "count")]
    images: Annotated[int, Column("evaluated images", "count")]
    accuracy: Annotated[float, Column("accuracy", "score")]
    precision: Annotated[float, Column("precision", "score")]


def class_accuracies(
    predicted: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    train_images: Sequence[int],
) -> list[ClassAccuracy]:
    """Return one row for each class.

    Args:
        predicted: ``(N,)`` predicted classes.
        labels: ``(N,)`` true classes.
        class_names: names of the C classes.
        train_images: training images of the C classes.
    """
    number = len(class_names)
    images = np.bincount(labels, minlength=number)
    found = np.bincount(labels[predicted == labels], minlength=number)
    taken = np.bincount(predicted, minlength=number)
    return [
        ClassAccuracy(
            category_id=c,
            name=class_names[c],
            frequency=shot_group(train_images[c]),
            train_images=int(train_images[c]),
            images=int(images[c]),
            accuracy=_percent(found[c], images[c]),
            precision=_percent(found[c], taken[c]) if images[c] else math.nan,
        )
        for c in range(number)
    ]


def accuracy_metrics(
    predicted: np.ndarray, labels: np.ndarray, rows: Sequence[ClassAccuracy]
) -> dict[str, float]:
    """Return all metrics in percent; ``nan`` where there is no image.

    Returns:
        ``accuracy`` over the images; ``mean_class_accuracy``; ``accuracy_many``,
        ``accuracy_medium`` and ``accuracy_few``, each the mean over the classes of the group that
        have evaluated images; and the counts ``evaluated-GROUP`` of these and ``categories-GROUP``
        of all classes of the group. On data with equally many images of each class, ``accuracy``
        and ``mean_class_accuracy`` are equal.
    """
    metrics = {
        "accuracy": _percent(int((predicted == labels).sum()), len(labels)),
        "mean_class_accuracy": _mean([row.accuracy for row in rows]),
    }
    by_group = {g: [row for row in rows if row.frequency == g] for g in SHOT_GROUPS}
    for group, own in by_group.items():
        metrics[f"accuracy_{group}"] = _mean([row.accuracy for row in own])
    for group, own in by_group.items():
        metrics[f"evaluated-{group}"] = float(sum(row.images > 0 for row in own))
        metrics[f"categories-{group}"] = float(len(own))
    return metrics


def _percent(part: float, whole: float) -> float:
    return 100.0 * float(part) / float(whole) if whole else math.nan


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan
