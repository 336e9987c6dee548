"""Confusion matrix of the detections that score thresholds keep, and its CSV file.

Shapes in this module:
    K: categories
    R: rows of the matrix
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from d2_seesaw.evaluation.analysis import ConfusionMatrix, LongTailAnalysis
from d2_seesaw.evaluation.analysis.confusion import Assignment, object_confusions
from d2_seesaw.evaluation.tables import CategoryResult, most_frequent_first, write_csv

MISSED, BACKGROUND = "(missed)", "(background)"


def confusion_matrix(assignment: Assignment, thresholds: np.ndarray) -> ConfusionMatrix:
    """Count confusions of the detections with at least the threshold of their category.

    Detections of the background overlap no object of any category at an IoU of 0.5, and are false
    by the rules of LVIS: their category was verified in the image, and annotated exhaustively.

    Args:
        assignment: Detections and the objects to which they belong.
        thresholds: ``(K,)`` thresholds.
    """
    labels = assignment.labels(thresholds)
    ids = assignment.ground_truth.category_ids.tolist()
    return ConfusionMatrix(
        confusions=object_confusions(assignment.ground_truth, labels),
        background=[(ids[k], n) for k, n in enumerate(labels.background.tolist()) if n],
    )


@dataclass(frozen=True)
class MatrixTable:
    """Confusion matrix as an array.

    Attributes:
        rows: Categories of the rows, the most frequent first; None for the background, the last.
        columns: The same categories; None for missed objects, the last.
        counts: ``(R, R)`` numbers of objects, in the last row of detections.
    """

    rows: list[CategoryResult | None]
    columns: list[CategoryResult | None]
    counts: np.ndarray


def matrix_table(analysis: LongTailAnalysis, *, all_categories: bool = True) -> MatrixTable:
    """Return the confusion matrix of an analysis.

    Args:
        analysis: The analysis.
        all_categories: Whether to include categories without objects and without detections.

    Raises:
        ValueError: the analysis has no confusion matrix.
    """
    matrix = analysis.matrix
    if matrix is None:
        raise ValueError(
            "the evaluation has no confusion matrix: it was made by an earlier version. From its "
            "saved detections: d2-seesaw evaluate RESULTS --annotations FILE --output DIR"
        )
    categories = most_frequent_first(analysis.categories)
    if not all_categories:
        seen = {c.category_id for c in matrix.confusions}
        seen |= {c.predicted_id for c in matrix.confusions} | {i for i, _ in matrix.background}
        categories = [c for c in categories if c.category_id in seen]
    places: dict[int | None, int] = {c.category_id: k for k, c in enumerate(categories)}
    places[None] = len(categories)
    counts = np.zeros((len(places), len(places)), dtype=np.int64)
    for confusion in matrix.confusions:
        counts[places[confusion.category_id], places[confusion.predicted_id]] += confusion.objects
    for category_id, detections in matrix.background:
        counts[-1, places[category_id]] = detections
    return MatrixTable([*categories, None], [*categories, None], counts)


def write_confusion_matrix(path: str | os.PathLike[str], analysis: LongTailAnalysis) -> None:
    """Write the confusion matrix as a CSV file.

    Rows are annotated categories, the most frequent first, and the background. Columns are
    predicted categories, and missed objects.

    Raises:
        ValueError: the analysis has no confusion matrix.
    """
    table = matrix_table(analysis)
    write_csv(
        path,
        [
            ["category", *_names(table.columns, MISSED)],
            *(
                [name, *numbers]
                for name, numbers in zip(
                    _names(table.rows, BACKGROUND), table.counts.tolist(), strict=True
                )
            ),
        ],
    )


def _names(categories: Sequence[CategoryResult | None], last: str) -> list[str]:
    return [last if c is None else c.name for c in categories]
