"""Objects of the tail to look at: those that a more frequent category swallows, and those missed.

Shapes in this module:
    N: objects that something names
"""

from __future__ import annotations

from typing import Any

import numpy as np

from d2_seesaw.evaluation.analysis import ConfusionExample, LongTailAnalysis
from d2_seesaw.evaluation.analysis.object_confusion import ObjectNames
from d2_seesaw.evaluation.analysis.swallowing import Swallowed, swallowed
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns, index_of
from d2_seesaw.evaluation.predictions.detections import DetectionColumns

_PAIRS = 24
_RARE_PAIRS = 16  # common categories have more objects, and would leave no place for the rare ones
_OF_A_PAIR = 2
_MISSED = 8


def confusion_examples(
    analysis: LongTailAnalysis,
    ground_truth: GroundTruthColumns,
    detections: DetectionColumns,
    names: ObjectNames,
) -> list[ConfusionExample]:
    """Examples of what ``swallowed`` counts, and of objects of rare categories that are missed.

    The same evaluation has the same examples, whatever the order of detections without ties.

    Args:
        analysis: With all but the examples.
        ground_truth: The annotations.
        detections: Of its images.
        names: What names the objects.

    Returns:
        At most 56. First of up to 24 pairs, in the order of ``swallowed``, 16 of rare categories at
        most before those of common ones, two objects each: those with the highest scores of the
        detection that names them; of equal scores the first in the file. Then 8 missed objects of
        rare categories, the largest first.
    """
    named, scores = _named_objects(detections, names, analysis.task)
    kind = np.column_stack([ground_truth.categories, names.categories])[named]
    examples = []
    for pair in _pairs_to_show(swallowed(analysis)):
        ids = np.array([pair.category.category_id, pair.by.category_id])
        is_pair = (kind == index_of(ids, ground_truth.category_ids)).all(axis=1)
        for place in np.flatnonzero(is_pair)[:_OF_A_PAIR].tolist():
            row = int(names.rows[named[place]])
            examples.append(
                ConfusionExample(
                    category_id=pair.category.category_id,
                    predicted_id=pair.by.category_id,
                    **_place(ground_truth, int(named[place])),
                    predicted_box=_predicted_box(detections, row),
                    score=float(scores[place]),
                )
            )
    category_ids = ground_truth.category_ids.tolist()
    for row in _missed_objects(ground_truth, names):
        examples.append(
            ConfusionExample(
                category_id=category_ids[ground_truth.categories[row]],
                predicted_id=None,
                **_place(ground_truth, row),
                predicted_box=None,
                score=None,
            )
        )
    return examples


def _pairs_to_show(pairs: list[Swallowed]) -> list[Swallowed]:
    rare, common = ([p for p in pairs if p.category.frequency == g] for g in "rc")
    return [*rare[:_RARE_PAIRS], *common][:_PAIRS]


def _named_objects(
    detections: DetectionColumns, names: ObjectNames, task: str
) -> tuple[np.ndarray, np.ndarray]:
    """``(N,)`` rows of the objects that count and are named, and scores, the highest first."""
    named = np.flatnonzero(names.counts & (names.rows >= 0))
    scores = detections.scores_of(task)[names.rows[named]]
    order = np.argsort(-scores, kind="stable")
    return named[order], scores[order]


def _missed_objects(ground_truth: GroundTruthColumns, names: ObjectNames) -> list[int]:
    is_rare = np.isin(ground_truth.categories, ground_truth.groups["r"])
    missed = np.flatnonzero(names.counts & (names.rows < 0) & is_rare)
    order = np.argsort(-ground_truth.areas[missed], kind="stable")
    return missed[order[:_MISSED]].tolist()


def _place(ground_truth: GroundTruthColumns, row: int) -> dict[str, Any]:
    return {
        "image_id": ground_truth.image_ids[ground_truth.images[row]].item(),
        "box": ground_truth.boxes[row].tolist(),
    }


def _predicted_box(detections: DetectionColumns, row: int) -> list[float] | None:
    """That of the detection, or the one around its mask."""
    if detections.boxes is not None:
        return detections.boxes[row].tolist()
    if detections.masks is None:
        return None
    from pycocotools import mask as mask_utils

    rles: Any = detections.masks.rles(np.array([row]))
    return mask_utils.toBbox(rles)[0].tolist()
