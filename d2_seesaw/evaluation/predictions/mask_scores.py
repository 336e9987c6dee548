"""Two scores of one detection: that of its box, and that of its mask where a model has one.

Mask Scoring ranks masks by ``mask_scores`` and leaves the ``scores`` of boxes alone, so each task
has its own order of detections, and of too many in an image it keeps others.
"""

from collections.abc import Iterable
from typing import Any

MASK_SCORE = "mask_score"
"""Key of the score of the mask in a detection, beside ``score`` of the box."""


def add_mask_scores(predictions: Iterable[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
    """Put the ``mask_scores`` of a model's outputs into the detections made from them.

    Args:
        predictions: One dict per image, whose "instances" are detections in the COCO results
            format. Changed in place where the model has mask scores.
        outputs: One dict per image, what the model returned.
    """
    for prediction, output in zip(predictions, outputs, strict=True):
        if "instances" in output and output["instances"].has("mask_scores"):
            scores = output["instances"].mask_scores.tolist()
            for detection, score in zip(prediction["instances"], scores, strict=True):
                detection[MASK_SCORE] = score


def results_of_task(detections: list[dict[str, Any]], task: str) -> list[dict[str, Any]]:
    """Copies of ``detections`` with the one ``score`` that counts in ``task``.

    Args:
        detections: Dicts in the COCO results format, maybe with mask scores.
        task: "segm", whose score is that of the mask if there is one, or another.

    Returns:
        Dicts in the COCO results format, for "segm" without "bbox": given boxes, ``lvis`` and
        ``pycocotools`` would take their area for the area of the masks.
    """
    if task != "segm":
        return [{k: v for k, v in d.items() if k != MASK_SCORE} for d in detections]
    left_out = ("bbox", MASK_SCORE)
    return [
        {k: v for k, v in d.items() if k not in left_out} | {"score": d.get(MASK_SCORE, d["score"])}
        for d in detections
    ]
