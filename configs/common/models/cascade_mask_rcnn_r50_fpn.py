"""Cascade Mask R-CNN R50-FPN for LVIS v1, trained as in mmdet: softmax by default.

Three box stages with class-agnostic boxes, each of which resamples its RoIs, and three mask
heads. Everything before the ROI heads is the same as in the Mask R-CNN, except for the RPN's loss
and the number of its proposals in training.
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.roi_heads import FastRCNNConvFCHead

from d2_seesaw.modeling.roi_heads import LossDrivenCascadeROIHeads, LossDrivenOutputLayers

from ..heads.classification import softmax as _softmax
from ..heads.mask import mask_heads as _mask_heads
from .mask_rcnn_r50_fpn import model

# As in mmdet: (x and y, width and height). Detectron2's third stage uses 1 / 30 and 1 / 15.
_STDS = ((0.1, 0.2), (0.05, 0.1), (0.033, 0.067))
_IOUS = (0.5, 0.6, 0.7)


def _box_head():
    return L(FastRCNNConvFCHead)(
        input_shape=L(ShapeSpec)(channels=256, height=7, width=7),
        conv_dims=[],
        fc_dims=[1024, 1024],
    )


def _box_predictor(std_xy, std_wh):
    return L(LossDrivenOutputLayers)(
        input_shape=L(ShapeSpec)(channels=1024),
        num_classes="${...num_classes}",
        box2box_transform=L(Box2BoxTransform)(
            weights=[1 / std_xy, 1 / std_xy, 1 / std_wh, 1 / std_wh]
        ),
        cls_agnostic_bbox_reg=True,
        box_reg_loss_type="smooth_l1",
        smooth_l1_beta=1.0,
        test_score_thresh=1e-4,
        test_nms_thresh=0.5,
        test_topk_per_image=300,
        **_softmax,
    )


_heads = model.roi_heads
model.roi_heads = L(LossDrivenCascadeROIHeads)(
    num_classes=_heads.num_classes,
    batch_size_per_image=512,
    positive_fraction=0.25,
    proposal_matchers=[
        L(Matcher)(thresholds=[iou], labels=[0, 1], allow_low_quality_matches=False)
        for iou in _IOUS
    ],
    box_in_features=_heads.box_in_features,
    box_pooler=_heads.box_pooler,
    box_heads=[_box_head() for _ in _STDS],
    box_predictors=[_box_predictor(*std) for std in _STDS],
    mask_in_features="${.box_in_features}",
    mask_pooler=_heads.mask_pooler,
    mask_head=_mask_heads,
    score_fusion="logits",
    resample=True,
    stage_loss_weights=[1.0, 0.5, 0.25],
)

model.proposal_generator.update(
    box_reg_loss_type="smooth_l1", smooth_l1_beta=1 / 9, post_nms_topk=[2000, 1000]
)
