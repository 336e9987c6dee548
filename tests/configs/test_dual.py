"""Tests of configs/common/heads/dual.py, applied to models as its docstring describes."""

import pytest
from detectron2.config import LazyConfig, instantiate

from d2_seesaw.engine import check_config
from d2_seesaw.layers import NormedLinear
from d2_seesaw.losses import SeesawLoss
from d2_seesaw.modeling import DualHeadRCNN
from d2_seesaw.modeling.roi_heads import (
    DualBoxHead,
    DualOutputLayers,
    DualTSDBoxHead,
    DualTSDOutputLayers,
    TSDOutputLayers,
)
from tests.support.configs import CONFIGS, add_tsd, all_of, build_model, through_yaml, with_seesaw

NAMES = {
    "plain": "lvis_v1/mask_rcnn_r50_fpn_seesaw_rfs_2x",
    "cascade": "lvis_v1/cascade_mask_rcnn_r50_fpn_softmax_rfs_1x",
    "tsd": "lvis_v1/htc_lite_r50_fpn_softmax_rfs_1x",
}


def before(kind, name):
    cfg = with_seesaw(CONFIGS / f"{name}.py")
    if kind == "tsd":
        add_tsd(cfg, seesaw=True)
    return cfg


def with_dual_heads(kind, name, *, new_layers=True):
    cfg, dual = before(kind, name), LazyConfig.load("configs/common/heads/dual.py")
    cfg.model.update(dual.model)
    heads = cfg.model.roi_heads
    several = "box_heads" in heads
    box_heads = heads.box_heads if several else [heads.box_head]
    predictors = heads.box_predictors if several else [heads.box_predictor]
    prefix = "tsd_" if kind == "tsd" else ""
    for box_head, predictor in zip(box_heads, predictors, strict=True):
        if new_layers:
            box_head.update(dual[f"{prefix}box_head"])
        predictor.update(dual[f"{prefix}box_predictor"])
        predictor.update(new_cls_score=predictor.cls_score, new_cls_loss=predictor.cls_loss)
    check_config(cfg)
    return cfg


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), NAMES.items())
def test_saves_reloads_and_builds_at_full_size(kind, name):
    cfg, previous = with_dual_heads(kind, name), before(kind, name)
    for changed in (cfg, previous):
        changed.model.roi_heads.num_classes = 37
    model, trained = build_model(through_yaml(cfg)), build_model(previous)
    assert type(model) is DualHeadRCNN
    assert (model.init, model.fresh_counts) == ("copy", True)
    shapes = {n: t.shape for n, t in model.state_dict().items()}
    assert {n: s for n, s in shapes.items() if n not in model.added_keys} == {
        n: t.shape for n, t in trained.state_dict().items()
    }
    heads = all_of(model.roi_heads.box_head)
    assert len(heads) == (1 if kind == "plain" else 3)
    for head, predictor in zip(heads, all_of(model.roi_heads.box_predictor), strict=True):
        assert type(head) is (DualTSDBoxHead if kind == "tsd" else DualBoxHead)
        assert type(predictor) is (DualTSDOutputLayers if kind == "tsd" else DualOutputLayers)
        assert isinstance(predictor, TSDOutputLayers) == (kind == "tsd")
        new = predictor.new
        assert type(new.cls_score) is type(predictor.cls_score) is NormedLinear
        assert type(new.cls_loss) is type(predictor.cls_loss) is SeesawLoss
        assert new.cls_score is not predictor.cls_score
        assert new.cls_loss is not predictor.cls_loss
        assert new.cls_score.out_features == new.cls_loss.num_logits == 39
    added = sum(model.state_dict()[n].numel() for n in model.added_keys)
    layers = 12544 * 1024 + 1024 + 1024 * 1024 + 1024
    assert added == len(heads) * (layers + 1025 * 39 + 38)


def test_without_the_box_head_only_the_classifier_is_new():
    model = build_model(with_dual_heads("cascade", NAMES["cascade"], new_layers=False))
    assert {name.split(".new.")[1] for name in model.added_keys} == {
        "cls_score.weight",
        "cls_score.bias",
        "cls_loss.class_counts",
    }


def test_the_quickstarts_dual_head_trains_only_new_parameters():
    model = instantiate(with_dual_heads("tsd", "quickstart/htc_lite").model)
    learned = {name for name, p in model.named_parameters() if p.requires_grad}
    assert len(learned) == 3 * 4
    assert learned < model.added_keys
