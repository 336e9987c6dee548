"""Small complete models with one or two classification branches per stage."""

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.roi_heads import StandardROIHeads
from torch import nn

from d2_seesaw.modeling import DualHeadRCNN
from d2_seesaw.modeling.roi_heads import (
    DualBoxHead,
    DualOutputLayers,
    DualTSDBoxHead,
    DualTSDOutputLayers,
    GlobalContextEncoder,
    HTCLiteROIHeads,
    LossDrivenCascadeROIHeads,
    MaskIoUHead,
    ScoredMaskHead,
)
from tests.modeling.roi_heads import parts, tsd_parts
from tests.modeling.roi_heads.parts import CHANNELS, SIZE, WIDTH, C

KINDS = ("plain", "cascade", "htc_lite", "tsd", "tsd_htc_lite")
SHAPE = ShapeSpec(channels=CHANNELS, height=7, width=7)


class TinyBackbone(Backbone):
    """Backbone with two levels and a batch norm whose statistics training would change."""

    def __init__(self):
        super().__init__()
        self.p2 = nn.Sequential(
            nn.Conv2d(3, CHANNELS, 7, 4, 3), nn.BatchNorm2d(CHANNELS), nn.ReLU()
        )
        self.p3 = nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 3, 2, 1), nn.BatchNorm2d(CHANNELS))

    def forward(self, x):  # pyright: ignore[reportIncompatibleMethodOverride]
        p2 = self.p2(x)
        return {"p2": p2, "p3": self.p3(p2)}

    def output_shape(self):
        return {n: ShapeSpec(channels=CHANNELS, stride=s) for n, s in (("p2", 4), ("p3", 8))}

    @property
    def size_divisibility(self):
        return 8


def rpn():
    return RPN(
        in_features=list(parts.LEVELS),
        head=StandardRPNHead(in_channels=CHANNELS, num_anchors=1),
        anchor_generator=DefaultAnchorGenerator(
            sizes=[[16], [32]], aspect_ratios=[1.0], strides=[4, 8]
        ),
        anchor_matcher=Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True),
        box2box_transform=Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
        batch_size_per_image=16,
        positive_fraction=0.5,
        pre_nms_topk=(100, 50),
        post_nms_topk=(40, 20),
        nms_thresh=0.9,
    )


def new_classification(seesaw):
    score, loss = tsd_parts.classification(seesaw)
    return {"new_cls_score": score, "new_cls_loss": loss}


def box_head(kind, dual, **options):
    if kind.startswith("tsd"):
        head = DualTSDBoxHead if dual else tsd_parts.TSDBoxHead
        return head(SHAPE, fc_dims=[WIDTH], offset_dim=12, **options)
    if dual:
        return DualBoxHead(SHAPE, **{"conv_dims": [], "fc_dims": [WIDTH]} | options)
    return parts.box_head()


def box_predictor(kind, dual, stage=0, *, seesaw=True, new_seesaw=None, **options):
    new = new_classification(seesaw if new_seesaw is None else new_seesaw) if dual else {}
    score, loss = tsd_parts.classification(seesaw)
    shared = {"cls_score": score, "cls_loss": loss, "box2box_transform": parts.transform(stage)}
    shared |= {"cls_agnostic_bbox_reg": True, "test_score_thresh": 0.0, "test_topk_per_image": 10}
    if kind.startswith("tsd"):
        score, loss = tsd_parts.classification(seesaw)
        shared |= {"sibling_cls_score": score, "sibling_cls_loss": loss, "pc_cls": not seesaw}
        target = DualTSDOutputLayers if dual else tsd_parts.TSDOutputLayers
    else:
        target = DualOutputLayers if dual else parts.LossDrivenOutputLayers
    return target(ShapeSpec(channels=WIDTH), **shared | new | options)


def scored_mask_head():
    iou_head = MaskIoUHead(
        ShapeSpec(channels=CHANNELS, height=14, width=14),
        num_classes=C,
        conv_dims=[CHANNELS, CHANNELS],
        fc_dims=[WIDTH],
    )
    nn.init.normal_(iou_head.fc_mask_iou.weight)
    return ScoredMaskHead(parts.mask_head(), iou_head=iou_head)


def roi_heads(kind, dual, *, encoder=True, predictors=None, heads=None, **options):
    predictors = predictors or {}
    dual_head = dual and encoder
    if kind == "plain":
        one = parts.cascade_options(mask_head=scored_mask_head())
        for several in ("box_heads", "box_predictors", "proposal_matchers"):
            one.pop(several)
        return StandardROIHeads(
            **one,
            box_head=box_head(kind, dual_head, **heads or {}),
            box_predictor=box_predictor(kind, dual, **predictors),
            proposal_matcher=parts.matchers()[0],
            **options,
        )
    given = parts.cascade_options(
        box_pooler=tsd_parts.pooler() if kind.startswith("tsd") else parts.pooler(7),
        box_heads=[box_head(kind, dual_head, **heads or {}) for _ in range(3)],
        box_predictors=[box_predictor(kind, dual, k, **predictors) for k in range(3)],
        mask_head=scored_mask_head(),
        **parts.MMDET | options,
    )
    if not kind.endswith("htc_lite"):
        return LossDrivenCascadeROIHeads(**given)
    context = GlobalContextEncoder(C, channels=CHANNELS, in_feature="p3", num_convs=1)
    return HTCLiteROIHeads(context_encoder=context, **given)


def model(kind, *, dual=False, model_class=None, model_options=None, **options):
    """Build a model with random weights, large enough that scores and boxes differ."""
    whole = {
        "backbone": TinyBackbone(),
        "proposal_generator": rpn(),
        "roi_heads": roi_heads(kind, dual, **options),
        "pixel_mean": [127.5] * 3,
        "pixel_std": [60.0] * 3,
        "input_format": "RGB",
    }
    model_class = model_class or (DualHeadRCNN if dual else GeneralizedRCNN)
    built = model_class(**whole, **model_options or {})
    predictors = built.roi_heads.box_predictor
    with torch.no_grad():
        for predictor in predictors if isinstance(predictors, nn.ModuleList) else [predictors]:
            predictor.bbox_pred.weight.normal_(std=0.1)
            predictor.cls_score.weight.normal_(std=1.0)
        for parameter in built.proposal_generator.parameters():
            parameter.mul_(20)
    return built


def trained(kind, **options):
    """Build a model of the previous step, with statistics and counts as after training."""
    before = model(kind, **options)
    for name, buffer in before.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
        if name.endswith("class_counts"):
            buffer.random_(1, 100)
    return before.eval()


def follow(before, kind, **options):
    """Build the dual-head model that continues from ``before``."""
    after = model(kind, dual=True, **options)
    after.load_state_dict(before.state_dict(), strict=False)
    return after


def images(labels=((0, 2, 2), (4,))):
    """Return inputs of a model, with one object per label."""
    size = (SIZE, SIZE)
    pixels = [torch.rand(3, *size) * 255 for _ in labels]
    return [
        {
            "image": image,
            "instances": parts.target(list(image_labels)),
            "height": SIZE,
            "width": SIZE,
        }
        for image, image_labels in zip(pixels, labels, strict=True)
    ]
