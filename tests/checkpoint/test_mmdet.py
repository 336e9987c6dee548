"""Tests of the conversion with the tensor names and shapes listed by mmdet."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate

from d2_seesaw.checkpoint import MmdetModel, convert_mmdet, describe_mmdet
from d2_seesaw.checkpoint.mmdet import RULES, rename
from d2_seesaw.engine import load_config
from tests.checkpoint.mmdet_shapes import mmdet_shapes, recorded_shapes

MODELS = {
    # architecture: (recorded tensors, used tensors without counts, counts)
    "mask_rcnn_r50_fpn": (361, 307, 1),
    "cascade_mask_rcnn_r101_fpn": (709, 602, 3),
}
COUNTS = "roi_head.bbox_head.loss_cls.cum_samples"


def empty_state(shapes):
    """Return a state dict on the meta device, except for the counts, whose values matter."""
    return {
        key: torch.zeros(shape, device="cpu" if "cum_samples" in key else "meta")
        for key, shape in shapes.items()
    }


def model_state(architecture, num_classes=37, loss="seesaw"):
    folder = "mmdet" if loss == "seesaw" else "lvis_v1"
    tail = "" if loss == "seesaw" else "_rfs_2x"
    cfg = load_config(
        f"configs/{folder}/{architecture}_{loss}{tail}.py",
        [f"model.roi_heads.num_classes={num_classes}"],
    )
    with torch.device("meta"):
        return instantiate(cfg.model).state_dict()


@pytest.fixture
def mask_rcnn():
    return empty_state(recorded_shapes("mask_rcnn_r50_fpn"))


@pytest.mark.parametrize("architecture", MODELS)
def test_every_tensor_is_used_and_fills_the_model(architecture):
    recorded, used, counts = MODELS[architecture]
    state = empty_state(recorded_shapes(architecture))
    expected = model_state(architecture)
    converted = convert_mmdet(state, expected)
    assert len(state) == recorded
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in expected.items()}
    assert len(converted) == used + counts
    assert sum(key.endswith("class_counts") for key in converted) == counts


def test_the_published_number_of_classes_is_supported():
    state = empty_state(mmdet_shapes(depth=101, num_classes=1203))
    converted = convert_mmdet(state, model_state("mask_rcnn_r101_fpn", num_classes=1203))
    assert converted["roi_heads.box_predictor.cls_score.weight"].shape == (1205, 1024)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("backbone.conv1.weight", "backbone.bottom_up.stem.conv1.weight"),
        ("backbone.bn1.running_var", "backbone.bottom_up.stem.conv1.norm.running_var"),
        ("backbone.layer3.22.conv2.weight", "backbone.bottom_up.res4.22.conv2.weight"),
        ("backbone.layer4.1.bn3.bias", "backbone.bottom_up.res5.1.conv3.norm.bias"),
        ("backbone.layer1.0.downsample.0.weight", "backbone.bottom_up.res2.0.shortcut.weight"),
        (
            "backbone.layer1.0.downsample.1.running_mean",
            "backbone.bottom_up.res2.0.shortcut.norm.running_mean",
        ),
        ("neck.lateral_convs.0.conv.weight", "backbone.fpn_lateral2.weight"),
        ("neck.fpn_convs.3.conv.bias", "backbone.fpn_output5.bias"),
        ("rpn_head.rpn_conv.weight", "proposal_generator.rpn_head.conv.weight"),
        ("rpn_head.rpn_cls.bias", "proposal_generator.rpn_head.objectness_logits.bias"),
        ("rpn_head.rpn_reg.bias", "proposal_generator.rpn_head.anchor_deltas.bias"),
        ("roi_head.bbox_head.shared_fcs.0.weight", "roi_heads.box_head.fc1.weight"),
        ("roi_head.bbox_head.2.shared_fcs.1.bias", "roi_heads.box_head.2.fc2.bias"),
        ("roi_head.bbox_head.1.fc_cls.weight", "roi_heads.box_predictor.1.cls_score.weight"),
        ("roi_head.bbox_head.fc_reg.bias", "roi_heads.box_predictor.bbox_pred.bias"),
        (COUNTS, "roi_heads.box_predictor.cls_loss.class_counts"),
        ("roi_head.mask_head.0.convs.3.conv.weight", "roi_heads.mask_head.0.mask_fcn4.weight"),
        ("roi_head.mask_head.upsample.weight", "roi_heads.mask_head.deconv.weight"),
        ("roi_head.mask_head.conv_logits.bias", "roi_heads.mask_head.predictor.bias"),
        ("roi_head.mask_head.2.conv_res.conv.bias", "roi_heads.mask_head.conv_res.2.bias"),
        (
            "roi_head.semantic_head.lateral_convs.4.conv.weight",
            "roi_heads.semantic_head.lateral.4.weight",
        ),
        ("roi_head.semantic_head.conv_logits.bias", "roi_heads.semantic_head.logits.bias"),
        ("roi_head.glbctx_head.fc.bias", None),
        ("prefix.backbone.conv1.weight", None),
        ("backbone.conv1.weight.suffix", None),
    ],
)
def test_names(theirs, ours):
    assert rename(theirs) == ours


def test_every_rule_is_needed(mask_rcnn):
    import re

    htc = json.loads(Path("tests/golden/mmdet_3_3_0_htc_heads.json").read_text())
    for pattern, _ in RULES:
        assert any(re.fullmatch(pattern, key) for key in [*mask_rcnn, *htc]), pattern


def test_weight_values_are_not_changed():
    weight = torch.randn(4, 3)
    converted = convert_mmdet({"roi_head.bbox_head.shared_fcs.1.weight": weight})
    assert converted["roi_heads.box_head.fc2.weight"] is weight


def test_counts_become_exact_integers_of_the_same_value():
    counts = torch.tensor([0.0, 1.0, 2.0**24, 3e9, 2.0**53 - 1], dtype=torch.float64)
    (converted,) = convert_mmdet({COUNTS: counts}).values()
    assert converted.dtype == torch.int64
    assert converted.tolist() == [0, 1, 16777216, 3000000000, 9007199254740991]


@pytest.mark.parametrize("bad", [0.5, -1.0, float("nan"), float("inf"), 1e30, 2.0**53])
def test_invalid_counts_are_rejected(bad):
    with pytest.raises(ValueError, match=r"cum_samples: class counts must be .* of class 2") as e:
        convert_mmdet({COUNTS: torch.tensor([3.0, 0.0, bad, bad])})
    assert "but 2 are not" in str(e.value)


def test_all_problems_are_reported_in_one_error(mask_rcnn):
    state = mask_rcnn
    state["roi_head.glbctx_head.fc.weight"] = torch.zeros(2)
    state["backbone.layer3.6.conv1.weight"] = state["backbone.layer3.5.conv1.weight"]
    state["rpn_head.rpn_cls.weight"] = torch.zeros(9, 256, 1, 1)
    state[COUNTS] = torch.full((38,), 0.5)
    del state["neck.fpn_convs.1.conv.bias"]
    with pytest.raises(ValueError, match="do not fit") as error:
        convert_mmdet(state, model_state("mask_rcnn_r50_fpn"))
    lines = [line.strip() for line in str(error.value).splitlines()[1:]]
    assert lines == [
        "roi_head.bbox_head.loss_cls.cum_samples: class counts must be whole numbers from 0, but "
        "38 are not, the first of them 0.5 of class 0",
        "roi_head.glbctx_head.fc.weight: no rule for this key",
        "proposal_generator.rpn_head.objectness_logits.weight: (9, 256, 1, 1) in the file, "
        "(3, 256, 1, 1) in the model",
        "backbone.bottom_up.res4.6.conv1.weight: not in the model",
        "backbone.fpn_output3.bias: missing in the file",
    ]


def test_another_number_of_classes_is_reported(mask_rcnn):
    with pytest.raises(
        ValueError, match=r"cls_score.bias: \(39,\) in the file, \(7,\) in the model"
    ):
        convert_mmdet(mask_rcnn, model_state("mask_rcnn_r50_fpn", num_classes=5))


def softmax_state(mask_rcnn):
    del mask_rcnn[COUNTS]
    for name in ("weight", "bias"):
        key = f"roi_head.bbox_head.fc_cls.{name}"
        mask_rcnn[key] = mask_rcnn[key][:-1]
    return mask_rcnn


def test_models_trained_with_softmax_are_converted(mask_rcnn):
    expected = model_state("mask_rcnn_r50_fpn", loss="softmax")
    assert convert_mmdet(softmax_state(mask_rcnn), expected).keys() == expected.keys()


@pytest.mark.parametrize("depth", [50, 101])
@pytest.mark.parametrize("stages", [None, 3])
def test_the_architecture_is_inferred_from_the_tensors(depth, stages):
    state = empty_state(mmdet_shapes(depth=depth, num_classes=20, stages=stages))
    assert describe_mmdet(state) == MmdetModel(depth, stages == 3, 20, seesaw=True)


def test_softmax_is_recognized_by_its_number_of_logits(mask_rcnn):
    assert not describe_mmdet(softmax_state(mask_rcnn)).seesaw


def test_other_models_are_rejected(mask_rcnn):
    with pytest.raises(ValueError, match=r"expected the weights of an mmdet .* 0 blocks"):
        describe_mmdet({"head.weight": torch.zeros(1)})
    mask_rcnn["roi_head.bbox_head.fc_cls.bias"] = torch.zeros(80)
    with pytest.raises(ValueError, match=r"80 logits for 37 classes: expected 39 \(Seesaw"):
        describe_mmdet(mask_rcnn)
