"""Predictions of the stages of a cascade: refined boxes and fused scores.

Shapes in this module:
    Ri: RoIs of image i
    C: foreground classes
"""

from typing import NamedTuple

import torch
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Instances
from torch import Tensor

from d2_seesaw.modeling.roi_heads.fast_rcnn import Predictions, calibrated, uncalibrated_probs


class Stage(NamedTuple):
    """Proposals and predictions of one stage: logits, then the input of the box decoding."""

    predictor: FastRCNNOutputLayers
    predictions: Predictions
    proposals: list[Instances]


def refined_boxes(stage: Stage, num_classes: int) -> list[Tensor]:
    """Return the ``(Ri, 4)`` refined boxes of each image's RoIs.

    If boxes are class-specific, use the box of the ground-truth class (training, foreground RoIs),
    otherwise that of the highest-scoring class, as in mmdet's ``refine_bboxes``.
    """
    predictor, predictions, proposals = stage
    boxes = list(predictor.predict_boxes(predictions, proposals))
    if all(b.shape[1] == 4 for b in boxes):
        return boxes
    scores = uncalibrated_probs(predictor, predictions, proposals)
    refined = []
    for b, s, p in zip(boxes, scores, proposals, strict=True):
        classes = s[:, :-1].argmax(dim=1)
        if p.has("gt_classes"):
            classes = torch.where(_is_foreground(p, num_classes), p.gt_classes, classes)
        index = torch.arange(b.shape[0], device=b.device)
        refined.append(b.view(b.shape[0], num_classes, 4)[index, classes])
    return refined


def without_objects(
    boxes: list[Tensor], proposals: list[Instances], num_classes: int
) -> list[Tensor]:
    """Drop the boxes of RoIs that are ground-truth boxes appended by sampling.

    Args:
        boxes: per image, ``(Ri, 4)`` refined boxes.
        proposals: per image, the RoIs with ``gt_classes`` and, if there are objects, ``gt_boxes``.
        num_classes: C.
    """
    kept = []
    for b, p in zip(boxes, proposals, strict=True):
        if p.has("gt_boxes"):
            same = (p.proposal_boxes.tensor == p.gt_boxes.tensor).all(dim=1)
            b = b[~(same & _is_foreground(p, num_classes))]
        kept.append(b)
    return kept


def fuse(stages: list[Stage], how: str) -> tuple[list[Tensor], list[Tensor]]:
    """Return the last stage's boxes and the fused scores of all stages.

    Args:
        stages: stages of a cascade in inference, all with the same number of RoIs.
        how: ``"logits"``: scores of the mean logits, by the last predictor. Scores do not depend on
            class counts, so all predictors give the same. ``"probabilities"``: mean of the stages'
            scores. If the last predictor has a calibration, it acts on the fused scores.

    Returns:
        Per image, ``(Ri, 4)`` or ``(Ri, 4 C)`` boxes and ``(Ri, C + 1)`` scores, background last.
    """
    predictor, predictions, proposals = stages[-1]
    boxes = list(predictor.predict_boxes(predictions, proposals))
    if how == "logits":
        logits = torch.stack([s.predictions[0] for s in stages])
        # Under autocast the logits are in half precision; their mean is not.
        precise = torch.promote_types(logits.dtype, torch.float32)
        logits = logits.mean(dim=0, dtype=precise)
        return boxes, list(predictor.predict_probs((logits, *predictions[1:]), proposals))
    stage_probs = [uncalibrated_probs(*stage) for stage in stages]
    fused = [torch.stack(image).mean(dim=0) for image in zip(*stage_probs, strict=True)]
    return boxes, calibrated(predictor, fused)


def _is_foreground(proposals: Instances, num_classes: int) -> Tensor:
    labels = proposals.gt_classes
    return (labels >= 0) & (labels < num_classes)
