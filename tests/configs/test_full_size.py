"""Tests of a training step with 1,203 classes on a CPU: full heads, small images, few RoIs."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.modeling.roi_heads import CascadeROIHeads

from tests.support.configs import CONFIGS, predictors_of, with_seesaw
from tests.support.training import assert_complete, picture, step_of

NAMES = {
    "flagship": "lvis_v1_seesaw",
    "cascade": "lvis_v1/cascade_mask_rcnn_r50_fpn_softmax_rfs_1x",
    "htc_lite": "lvis_v1/htc_lite_r50_fpn_softmax_rfs_1x",
}
SIZE = (96, 128)


@pytest.fixture(scope="module", params=NAMES)
def model(request):
    cfg = with_seesaw(CONFIGS / f"{NAMES[request.param]}.py")
    cfg.model.roi_heads.batch_size_per_image = 16
    cfg.model.proposal_generator.post_nms_topk = [50, 20]
    for predictor in predictors_of(cfg):
        # An untrained model scores each of 1,203 classes about 4e-4, above the usual threshold.
        predictor.update(test_score_thresh=5e-4, test_topk_per_image=20)
    torch.manual_seed(0)
    return instantiate(cfg.model)


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 20])
def test_a_step_gives_finite_losses_and_a_gradient_for_every_parameter(model, number):
    losses = step_of(model, [number], size=SIZE, num_classes=1203)
    last = "_stage2" if isinstance(model.roi_heads, CascadeROIHeads) else ""
    assert {f"loss_cls_classes{last}", f"loss_box_reg{last}"} < set(losses)
    assert_complete(model, losses)
    without = {n for n, p in model.named_parameters() if p.requires_grad and not p.grad.any()}
    if model.proposal_generator.anchor_boundary_thresh >= 0:
        # The anchors of these levels are larger than the image and are left out.
        without -= {f"backbone.fpn_output{k}.{kind}" for k in (4, 5) for kind in ("weight", "bias")}
    assert number == 0 or without == set()


def test_detections_have_masks(model):
    with torch.no_grad():
        (found,) = model.eval()([picture(0, size=SIZE) | {"height": 48, "width": 64}])
    instances = found["instances"]
    assert instances.image_size == (48, 64)
    assert 0 < len(instances) <= 20
    assert instances.pred_masks.shape == (len(instances), 48, 64)
