"""Boxes and scores of given proposals, before anything is thresholded or suppressed.

Shapes in this module:
    R: proposals of an image
    C: foreground classes
"""

from typing import Any

import torch
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads
from detectron2.structures import Instances
from torch import Tensor

BoxesAndScores = tuple[list[Tensor], list[Tensor]]
"""Per image, ``(R, 4)`` or ``(R, 4 C)`` boxes and ``(R, C + 1)`` scores, background last."""


def box_predictions(
    heads: Any, features: dict[str, Tensor], proposals: list[Instances]
) -> BoxesAndScores:
    """What ROI heads make of given proposals, per image.

    Heads with a box part of their own, such as our cascade and HTC-Lite, have a method of this
    name and signature (without ``heads``), which is then called. Others must do what Detectron2's
    standard or cascade heads do.

    Args:
        heads: ROI heads in evaluation mode.
        features: of the backbone.
        proposals: per image, with ``proposal_boxes``.

    Raises:
        ValueError: heads that override the box part of Detectron2's and have no such method.
    """
    if hasattr(heads, "box_predictions"):
        return heads.box_predictions(features, proposals)
    if _inherits(heads, CascadeROIHeads):
        return _score_cascade(heads, features, proposals)
    if _inherits(heads, StandardROIHeads):
        return _score_standard(heads, features, proposals)
    raise ValueError(
        f"{type(heads).__name__} has a box part of its own: averaging over views needs its method "
        "box_predictions(features, proposals); the union of detections works without it"
    )


def _inherits(heads: Any, host: type) -> bool:
    """Whether ``heads`` are ``host`` as far as the box part goes."""
    parts = ("forward", "_forward_box")
    return isinstance(heads, host) and all(
        getattr(type(heads), part) is getattr(host, part) for part in parts
    )


def _score_standard(
    heads: StandardROIHeads, features: dict[str, Tensor], proposals: list[Instances]
) -> BoxesAndScores:
    levels = [features[name] for name in heads.box_in_features]
    pooled = heads.box_pooler(levels, [p.proposal_boxes for p in proposals])
    predictor: Any = heads.box_predictor
    predictions = predictor(heads.box_head(pooled))
    boxes = predictor.predict_boxes(predictions, proposals)
    return list(boxes), list(predictor.predict_probs(predictions, proposals))


def _score_cascade(
    heads: CascadeROIHeads, features: dict[str, Tensor], proposals: list[Instances]
) -> BoxesAndScores:
    """The inference branch of ``CascadeROIHeads._forward_box`` up to its NMS."""
    levels = [features[name] for name in heads.box_in_features]
    sizes = [p.image_size for p in proposals]
    predictors: Any = heads.box_predictor
    stages, boxes = [], []
    for stage in range(heads.num_cascade_stages):
        if stage > 0:
            proposals = heads._create_proposals_from_boxes(boxes, sizes)
        predictions = heads._run_stage(levels, proposals, stage)
        boxes = predictors[stage].predict_boxes(predictions, proposals)
        stages.append(predictors[stage].predict_probs(predictions, proposals))
    return list(boxes), [torch.stack(scores).mean(0) for scores in zip(*stages, strict=True)]
