"""Cascade Mask R-CNN of Detectron2's ViTDet project for LVIS v1, with its ViT-B.

Layer norm in all heads, two convolutions in the RPN, four convolutions and one linear layer in
each box head, one mask head. RoIs and losses of the cascade as in Detectron2.

The box predictors have no classification loss yet. A leaf adds one to each, with ``update``:
``federated`` or ``seesaw`` from this file.
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import FastRCNNConvFCHead

from d2_seesaw.layers import linear_classifier
from d2_seesaw.modeling import (
    LossDrivenCascadeROIHeads,
    LossDrivenOutputLayers,
    RowROIPooler,
    SampledRPNHead,
)

from ..backbones.vit import vit_base as _vit_base
from ..heads.classification import federated as _federated
from ..heads.classification import seesaw as _seesaw
from ..heads.mask import mask_head as _mask_head

# Detectron2's federated loss. Its models start with a bias of 0.
federated = dict(
    cls_score=L(linear_classifier)(),
    cls_loss=_federated["cls_loss"],
    test_score_thresh=0.02,
)

# Its scores sum to 1 over classes and background, so that many are lower than those of sigmoids.
seesaw = dict(**_seesaw, test_score_thresh=1e-4)

_CHANNELS = 256


def _box_head():
    return L(FastRCNNConvFCHead)(
        input_shape=L(ShapeSpec)(channels=_CHANNELS, height=7, width=7),
        conv_dims=[_CHANNELS] * 4,
        fc_dims=[1024],
        conv_norm="LN",
    )


def _box_predictor(xy, wh):
    return L(LossDrivenOutputLayers)(
        input_shape=L(ShapeSpec)(channels=1024),
        num_classes="${...num_classes}",
        box2box_transform=L(Box2BoxTransform)(weights=[xy, xy, wh, wh]),
        cls_agnostic_bbox_reg=True,
        test_nms_thresh=0.5,
        test_topk_per_image=300,
    )


def _pooler(output_size):
    return L(RowROIPooler)(
        output_size=output_size,
        scales=[1 / 4, 1 / 8, 1 / 16, 1 / 32],
        sampling_ratio=0,
        pooler_type="ROIAlignV2",
    )


model = L(GeneralizedRCNN)(
    backbone=_vit_base,
    proposal_generator=L(RPN)(
        in_features=["p2", "p3", "p4", "p5", "p6"],
        head=L(SampledRPNHead)(in_channels=_CHANNELS, num_anchors=3, conv_dims=[-1, -1]),
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=[[32], [64], [128], [256], [512]],
            aspect_ratios=[0.5, 1.0, 2.0],
            strides=[4, 8, 16, 32, 64],
            offset=0.0,
        ),
        anchor_matcher=L(Matcher)(
            thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True
        ),
        box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_topk=[2000, 1000],
        post_nms_topk=[1000, 1000],
        nms_thresh=0.7,
    ),
    roi_heads=L(LossDrivenCascadeROIHeads)(
        num_classes=1203,
        batch_size_per_image=512,
        positive_fraction=0.25,
        proposal_matchers=[
            L(Matcher)(thresholds=[iou], labels=[0, 1], allow_low_quality_matches=False)
            for iou in (0.5, 0.6, 0.7)
        ],
        box_in_features=["p2", "p3", "p4", "p5"],
        box_pooler=_pooler(7),
        box_heads=[_box_head() for _ in range(3)],
        box_predictors=[_box_predictor(xy, wh) for xy, wh in ((10, 5), (20, 10), (30, 15))],
        mask_in_features="${.box_in_features}",
        mask_pooler=_pooler(14),
        mask_head=_mask_head,
        score_fusion="probabilities",
    ),
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
    input_format="RGB",
)
model.roi_heads.mask_head.conv_norm = "LN"
