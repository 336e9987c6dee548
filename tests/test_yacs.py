"""Tests of the registered heads in stock Detectron2 configs."""

import contextlib
import importlib

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.model_zoo import get_config_file
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

import d2_seesaw.yacs
from d2_seesaw.layers import NormedConv2d, NormedLinear
from d2_seesaw.losses import SeesawLoss, SoftmaxLoss
from d2_seesaw.modeling.roi_heads import AveragedMaskHeads, HTCLiteROIHeads
from d2_seesaw.yacs import add_seesaw_config
from tests.support.configs import meta_device

MASK_RCNN = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
CASCADE = "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml"


def config(roi_heads, base, *changes):
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(base))
    add_seesaw_config(cfg)
    cfg.MODEL.ROI_HEADS.NAME = roi_heads
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 7
    cfg.MODEL.ROI_MASK_HEAD.NAME = "SeesawMaskHead"
    cfg.MODEL.DEVICE = "meta"  # a test that computes chooses the CPU
    cfg.merge_from_list([*changes])
    return cfg


def built(cfg):
    """Build a model, without computing initial weights on the meta device."""
    with meta_device() if cfg.MODEL.DEVICE == "meta" else contextlib.nullcontext():
        return build_model(cfg)


def training_step(model):
    """Return the losses of two small images, one of them without objects."""
    instances = Instances((64, 64))
    instances.gt_boxes = Boxes(torch.tensor([[4.0, 4.0, 40.0, 40.0]]))
    instances.gt_classes = torch.tensor([3])
    instances.gt_masks = BitMasks(torch.ones(1, 64, 64, dtype=torch.bool))
    empty = Instances((64, 64))
    empty.gt_boxes = Boxes(torch.zeros(0, 4))
    empty.gt_classes = torch.zeros(0, dtype=torch.int64)
    empty.gt_masks = BitMasks(torch.zeros(0, 64, 64, dtype=torch.bool))
    image = torch.zeros(3, 64, 64)
    with EventStorage(0):
        return model([{"image": image, "instances": i} for i in (instances, empty)])


def test_standard_heads_follow_the_config():
    cfg = config("SeesawROIHeads", MASK_RCNN)
    cfg.MODEL.ROI_BOX_HEAD.SEESAW.merge_from_other_cfg(
        CfgNode({"P": 0.5, "Q": 1.0, "EPS": 0.1, "LOSS_WEIGHT": 3.0, "SYNC": False})
    )
    cfg.MODEL.ROI_BOX_HEAD.NORMED_CLS.TEMPERATURE = 11.0
    cfg.MODEL.ROI_MASK_HEAD.NORMED_PREDICTOR.ENABLED = True
    cfg.MODEL.ROI_MASK_HEAD.NORMED_PREDICTOR.TEMPERATURE = 13.0
    heads = built(cfg).roi_heads
    loss = heads.box_predictor.cls_loss
    assert isinstance(loss, SeesawLoss)
    assert (loss.p, loss.q, loss.eps, loss.loss_weight, loss.sync) == (0.5, 1.0, 0.1, 3.0, False)
    assert isinstance(heads.box_predictor.cls_score, NormedLinear)
    assert heads.box_predictor.cls_score.temperature == 11.0
    assert heads.box_predictor.cls_score.out_features == 9
    assert isinstance(heads.mask_head.predictor, NormedConv2d)
    assert heads.mask_head.predictor.temperature == 13.0


def test_softmax_and_plain_layers_need_two_keys():
    cfg = config(
        "SeesawROIHeads", MASK_RCNN, "MODEL.ROI_BOX_HEAD.CLS_LOSS", "softmax",
        "MODEL.ROI_BOX_HEAD.NORMED_CLS.ENABLED", False,
    )  # fmt: skip
    heads = built(cfg).roi_heads
    assert isinstance(heads.box_predictor.cls_loss, SoftmaxLoss)
    assert type(heads.box_predictor.cls_score) is nn.Linear
    assert not isinstance(heads.mask_head.predictor, NormedConv2d)


def test_cascade_heads_follow_the_config():
    cfg = config(
        "SeesawCascadeROIHeads", CASCADE, "MODEL.ROI_BOX_CASCADE_HEAD.MASK_HEADS", 3,
        "MODEL.ROI_BOX_CASCADE_HEAD.STAGE_LOSS_WEIGHTS", [1.0, 0.5, 0.25],
        "MODEL.ROI_BOX_CASCADE_HEAD.RESAMPLE", True,
    )  # fmt: skip
    heads = built(cfg).roi_heads
    losses = [predictor.cls_loss for predictor in heads.box_predictor]
    assert len({id(loss) for loss in losses}) == 3
    weights = [p.box2box_transform.weights for p in heads.box_predictor]
    assert weights == [(10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0)]
    assert isinstance(heads.mask_head, AveragedMaskHeads)
    assert len({id(head.predictor) for head in heads.mask_head}) == 3
    assert heads.resample
    assert heads.stage_loss_weights == [1.0, 0.5, 0.25]
    assert heads.score_fusion == "logits"


@pytest.mark.parametrize(
    ("roi_heads", "base", "loss"),
    [
        ("SeesawROIHeads", MASK_RCNN, "loss_cls_objectness"),
        ("SeesawCascadeROIHeads", CASCADE, "loss_cls_objectness_stage2"),
        ("SeesawHTCLiteROIHeads", CASCADE, "loss_context"),
    ],
)
def test_a_training_step_gives_finite_losses_and_gradients(roi_heads, base, loss):
    few = ["MODEL.RPN.POST_NMS_TOPK_TRAIN", 40, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16]
    model = built(config(roi_heads, base, "MODEL.DEVICE", "cpu", *few))
    losses = training_step(model)
    assert loss in losses
    sum(losses.values()).backward()
    for name, parameter in model.roi_heads.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name


def test_htc_lite_reads_its_context_from_the_config():
    cfg = config(
        "SeesawHTCLiteROIHeads", CASCADE, "MODEL.CONTEXT.IN_FEATURE", "p5",
        "MODEL.CONTEXT.LOSS_WEIGHT", 1.5, "MODEL.CONTEXT.RESIDUAL", True,
    )  # fmt: skip
    heads = built(cfg).roi_heads
    assert isinstance(heads, HTCLiteROIHeads)
    encoder = heads.context_encoder
    assert (encoder.in_feature, encoder.stride, encoder.loss_weight) == ("p5", 32, 1.5)
    assert len(encoder.layers) == 2
    assert heads.mask_rois == "last"


def test_adding_the_config_twice_keeps_changed_values():
    cfg = config("SeesawROIHeads", MASK_RCNN, "MODEL.ROI_BOX_HEAD.SEESAW.Q", 1.0)
    add_seesaw_config(cfg)
    assert cfg.MODEL.ROI_BOX_HEAD.SEESAW.Q == 1.0


def test_reloading_does_not_register_twice():
    importlib.reload(d2_seesaw.yacs)
    built(config("SeesawCascadeROIHeads", CASCADE))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("MODEL.ROI_BOX_HEAD.CLS_LOSS", "focal"), r"one of \('seesaw', 'softmax'\), got 'focal'"),
        (("MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True), "use_sigmoid_ce=True"),
    ],
)
def test_invalid_options_are_reported(change, message):
    with pytest.raises(ValueError, match=message):
        built(config("SeesawROIHeads", MASK_RCNN, *change))


def test_an_unknown_context_feature_is_reported():
    cfg = config("SeesawHTCLiteROIHeads", CASCADE, "MODEL.CONTEXT.IN_FEATURE", "p9")
    with pytest.raises(ValueError, match=r"IN_FEATURE 'p9' is not one of .*'p6'"):
        built(cfg)
