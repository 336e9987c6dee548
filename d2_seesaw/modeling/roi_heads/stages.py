"""What the stages of a cascade hand on: one box per RoI to the next, boxes and scores at the end.

Shapes in this module:
    Ri: RoIs of image i
    C: foreground classes
"""

from typing import NamedTuple

import torch
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Instances
from torch import Tensor

from d2_seesaw.modeling.roi_heads.fast_rcnn import Predictions

SCORE_FUSIONS = ("logits", "probabilities")


class Stage(NamedTuple):
    """What one stage saw and said: logits first, then what its predictor decodes boxes from."""

    predictor: FastRCNNOutputLayers
    predictions: Predictions
    proposals: list[Instances]


def refined_boxes(stage: Stage, num_classes: int) -> list[Tensor]:
    """Per image, the ``(Ri, 4)`` box that each RoI of ``stage`` has become.

    Of class-specific boxes it is that of the RoI's true class if it has one, which is the case in
    training alone, and else that of its best-scored class; as in mmdet's ``refine_bboxes``.
    """
    predictor, predictions, proposals = stage
    boxes = list(predictor.predict_boxes(predictions, proposals))
    if all(b.shape[1] == 4 for b in boxes):
        return boxes
    scores = predictor.predict_probs(predictions, proposals)
    refined = []
    for b, s, p in zip(boxes, scores, proposals, strict=True):
        classes = s[:, :-1].argmax(dim=1)
        if p.has("gt_classes"):
            classes = torch.where(_is_foreground(p, num_classes), p.gt_classes, classes)
        index = torch.arange(len(b), device=b.device)
        refined.append(b.view(len(b), num_classes, 4)[index, classes])
    return refined


def without_objects(
    boxes: list[Tensor], proposals: list[Instances], num_classes: int
) -> list[Tensor]:
    """Leave out the boxes of RoIs that are a ground-truth box themselves, appended by sampling.

    Args:
        boxes: per image ``(Ri, 4)``, what the RoIs have become.
        proposals: per image, the RoIs with their ``gt_classes`` and, where there are objects,
            ``gt_boxes``.
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
    """Per image, the last stage's boxes and the fused scores of all stages.

    Args:
        stages: of one cascade in inference, so all with the same number of RoIs.
        how: ``"logits"``: the last predictor scores the mean logits. Which one does not matter:
            scores depend on the kind of loss, not on the counts that each loss holds.
            ``"probabilities"``: the mean of the stages' scores.

    Returns:
        ``(Ri, 4)`` or ``(Ri, 4 C)`` boxes and ``(Ri, C + 1)`` scores, background last.
    """
    predictor, predictions, proposals = stages[-1]
    boxes = list(predictor.predict_boxes(predictions, proposals))
    if how == "logits":
        logits = torch.stack([s.predictions[0] for s in stages])
        # Under autocast they are half-precision, which scores do not have to be.
        precise = torch.promote_types(logits.dtype, torch.float32)
        logits = logits.mean(dim=0, dtype=precise)
        return boxes, list(predictor.predict_probs((logits, *predictions[1:]), proposals))
    of_stages = [s.predictor.predict_probs(s.predictions, s.proposals) for s in stages]
    return boxes, [torch.stack(image).mean(dim=0) for image in zip(*of_stages, strict=True)]


def _is_foreground(proposals: Instances, num_classes: int) -> Tensor:
    labels = proposals.gt_classes
    return (labels >= 0) & (labels < num_classes)
