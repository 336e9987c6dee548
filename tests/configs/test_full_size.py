"""One training step at LVIS v1's 1,203 classes on a CPU: full heads, small images, few RoIs."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from tests.support.configs import CONFIGS, predictors_of, with_seesaw

NAMES = {
    "flagship": "lvis_v1_seesaw",
    "cascade": "lvis_v1/cascade_mask_rcnn_r50_fpn_softmax_rfs_1x",
    "htc_lite": "lvis_v1/htc_lite_r50_fpn_softmax_rfs_1x",
}
HEIGHT, WIDTH = 96, 128


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


def image(number):
    """Draw an image of ``number`` objects of as many classes."""
    corner = torch.rand(number, 2) * torch.tensor([WIDTH - 40.0, HEIGHT - 40.0])
    objects = Instances((HEIGHT, WIDTH))
    objects.gt_boxes = Boxes(torch.cat([corner, corner + 8 + 30 * torch.rand(number, 2)], dim=1))
    objects.gt_classes = torch.arange(number) * 60
    if number:
        objects.gt_masks = BitMasks(torch.rand(number, HEIGHT, WIDTH) > 0.5)
    return {"image": 255 * torch.rand(3, HEIGHT, WIDTH), "instances": objects}


@pytest.mark.parametrize("number", [0, 1, 20])
def test_a_step_gives_finite_losses_and_a_gradient_for_every_parameter(model, number):
    model.train().zero_grad()
    with EventStorage(0):
        losses = model([image(number)])
    sum(losses.values()).backward()
    last = "_stage2" if isinstance(model.roi_heads, CascadeROIHeads) else ""
    assert {f"loss_cls_classes{last}", f"loss_box_reg{last}"} < set(losses)
    for name, loss in losses.items():
        assert torch.isfinite(loss), name
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            if number:
                assert parameter.grad.any(), name


def test_detections_have_masks(model):
    with torch.no_grad():
        (found,) = model.eval()([{"image": image(0)["image"], "height": 48, "width": 64}])
    instances = found["instances"]
    assert instances.image_size == (48, 64)
    assert 0 < len(instances) <= 20
    assert instances.pred_masks.shape == (len(instances), 48, 64)
