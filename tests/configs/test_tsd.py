"""Tests of configs/common/heads/tsd.py, applied to cascades as its docstring describes."""

import pytest
import torch
from detectron2.config import instantiate

from d2_seesaw.engine import check_config
from d2_seesaw.inference import MeanOverSharedProposals, MultiViewInference, UnionOfDetections
from d2_seesaw.losses import SeesawLoss, SoftmaxLoss
from d2_seesaw.modeling.roi_heads import TSDBoxHead, TSDOutputLayers
from tests.inference.models import picture
from tests.support.configs import CONFIGS, add_tsd, build_model, changed, through_yaml
from tests.support.training import assert_complete, step_of

QUICKSTARTS = ("quickstart/cascade", "quickstart/htc_lite")


def with_tsd(name, *, seesaw=True):
    cfg = changed(CONFIGS / f"{name}.py")
    add_tsd(cfg, seesaw=seesaw)
    check_config(cfg)
    return cfg


@pytest.mark.parametrize("seesaw", [True, False])
@pytest.mark.parametrize(
    "name",
    ["lvis_v1/htc_lite_r50_fpn_softmax_rfs_1x", "lvis_v1/cascade_mask_rcnn_r50_fpn_softmax_rfs_1x"],
)
def test_saves_reloads_and_builds_at_full_size(name, seesaw):
    heads = build_model(through_yaml(with_tsd(name, seesaw=seesaw))).roi_heads
    weights = []
    for head, predictor in zip(heads.box_head, heads.box_predictor, strict=True):
        assert isinstance(head, TSDBoxHead)
        assert isinstance(predictor, TSDOutputLayers)
        kind = SeesawLoss if seesaw else SoftmaxLoss
        for part in (predictor, predictor.sibling):
            assert isinstance(part.cls_loss, kind)
            assert part.cls_loss.num_classes == part.num_classes == 1203
            assert part.cls_score.out_features == part.cls_loss.num_logits
            assert part.bbox_pred.out_features == 4
            assert part.box2box_transform is predictor.box2box_transform
        assert (predictor.pc_cls, predictor.pc_loc) == (not seesaw, True)
        assert (predictor.pc_margin, predictor.detach_targets) == (0.3, False)
        weights.append(predictor.box2box_transform.weights[0])
        fcs = 12544 * 1024 + 1024 + 1024 * 1024 + 1024
        offsets = 12544 * 256 + 256 + 2 * (256 * 256 + 256) + 257 * (98 + 2)
        assert sum(p.numel() for p in head.parameters()) == 3 * fcs + offsets
    assert weights == pytest.approx([1 / 0.1, 1 / 0.05, 1 / 0.033])


@pytest.fixture
def record(tmp_path):
    return picture(tmp_path / "picture.png")


@pytest.mark.parametrize(
    ("name", "merge"),
    [
        ("quickstart/cascade", MeanOverSharedProposals()),
        ("quickstart/htc_lite", MeanOverSharedProposals()),
        ("quickstart/htc_lite", UnionOfDetections()),
    ],
)
def test_detects_in_several_views(name, merge, record):
    cfg = with_tsd(name)
    for predictor in cfg.model.roi_heads.box_predictors:
        predictor.update(test_score_thresh=0.0, test_topk_per_image=15)
    model = instantiate(cfg.model).eval()
    views = MultiViewInference(model, scales=[(64, 110)], merge=merge)
    found = views([record])[0]["instances"]
    assert len(found) == 15
    assert torch.isfinite(found.scores).all()
    assert found.pred_masks.shape == (15, 150, 203)


@pytest.mark.parametrize("name", QUICKSTARTS)
def test_a_training_step_gives_finite_losses_and_gradients(name):
    model = instantiate(with_tsd(name).model)
    assert_complete(model, step_of(model, [2, 2], size=(96, 128)))
    for head in model.roi_heads.box_head:
        assert head.delta_c[-1].weight.grad.any()
        assert head.delta_r[-1].weight.grad.any()
