from functools import partial

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.mask_head import mask_rcnn_loss
from detectron2.structures import Instances
from torch import nn
from torch.testing import assert_close

from d2_seesaw.layers import CarafeUpsample, mask_predictor, normed_mask_predictor
from d2_seesaw.modeling.roi_heads import CarafeMaskHead, MaskHeadWithPredictor
from tests.modeling.roi_heads.parts import positives

SHAPE = ShapeSpec(channels=8, width=14, height=14)
C = 3
small_carafe = partial(CarafeUpsample, compressed_channels=4, kernel_size=3)


def mask_head(**options):
    defaults = {
        "num_classes": C,
        "conv_dims": [6, 6, 6],
        "predictor": mask_predictor(std=0.5),
        "upsample": small_carafe,
    }
    return CarafeMaskHead(SHAPE, **defaults | options)


@pytest.mark.parametrize("predictor", [mask_predictor(std=0.5), normed_mask_predictor()])
def test_the_head_is_convolutions_then_carafe_then_the_predictor_without_relu(predictor):
    head = mask_head(predictor=predictor)
    layers = [name for name, _ in head.named_children()]
    assert layers == ["mask_fcn1", "mask_fcn2", "upsample", "predictor"]
    x = torch.randn(2, 8, 14, 14)
    y = x
    for conv in (head.mask_fcn1, head.mask_fcn2):
        y = F.conv2d(y, conv.weight, conv.bias, padding=1).clamp(min=0)
    # The batch norm makes some values negative, so that a ReLU would change them.
    head.upsample = nn.Sequential(head.upsample, nn.BatchNorm2d(6))
    y = head.upsample(y)
    assert (y < 0).any()
    assert_close(head.layers(x), head.predictor(y))
    assert head.layers(x).shape == (2, C, 28, 28)


def test_weight_names_are_the_plain_heads_with_upsample_for_deconv():
    ours = set(mask_head().state_dict())
    plain = MaskHeadWithPredictor(
        SHAPE, num_classes=C, conv_dims=[6, 6, 6], predictor=mask_predictor()
    )
    carafe = {f"upsample.{name}" for name in small_carafe(6).state_dict()}
    assert ours == {n for n in plain.state_dict() if not n.startswith("deconv")} | carafe


def test_the_default_is_the_papers_carafe():
    head = CarafeMaskHead(
        ShapeSpec(channels=256, width=14, height=14),
        num_classes=1,
        conv_dims=[256] * 5,
        predictor=mask_predictor(),
    )
    assert sum(p.numel() for p in head.upsample.parameters()) == 74_148


def test_an_upsampling_module_can_be_given():
    upsample = nn.Upsample(scale_factor=2)
    head = mask_head(upsample=upsample)
    assert head.upsample is upsample
    assert head.layers(torch.randn(1, 8, 14, 14)).shape == (1, C, 28, 28)


def test_losses_and_predictions_use_the_class_of_each_roi(storage):
    head = mask_head()
    x = torch.randn(3, 8, 14, 14)
    images = positives([2, 0], [1])
    assert_close(head(x, images)["loss_mask"], mask_rcnn_loss(head.layers(x), images))
    found = Instances((64, 64), pred_classes=torch.tensor([2, 0, 1]))
    head.eval()(x, [found])
    expected = head.layers(x)[torch.arange(3), found.pred_classes].sigmoid()
    assert_close(found.pred_masks[:, 0], expected)


@pytest.mark.parametrize("norm", ["", "BN", lambda channels: nn.GroupNorm(2, channels)])
def test_no_positives_give_zero_loss_and_zero_gradients(storage, norm):
    head = mask_head(conv_norm=norm)
    loss = head(torch.zeros(0, 8, 14, 14), positives([], []))["loss_mask"]
    loss.backward()
    assert loss == 0
    assert all((p.grad == 0).all() for p in head.parameters())
    assert all(b.isfinite().all() for b in head.buffers())


def test_the_convolutions_accept_a_norm(storage):
    head = mask_head(conv_norm="BN")
    assert isinstance(head.mask_fcn2.norm, nn.BatchNorm2d)
    assert head.mask_fcn2.bias is None
    head(torch.randn(2, 8, 14, 14), positives([1, 2]))["loss_mask"].backward()
    assert all(p.grad.any() for p in head.mask_fcn1.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conv_dims": [6, 6, 4]}, r"keeps its 6 channels.* has 4 .* two of \[6, 6, 4\] equal"),
        ({"conv_dims": [6]}, r"keeps its 8 channels"),
        ({"upsample": CarafeUpsample(9)}, "upsample has 9 input channels, but its input has 6"),
        ({"predictor": nn.Conv2d(6, 9, 1)}, "needs 6 channels to 3 classes"),
    ],
)
def test_inconsistent_parts_are_reported(options, message):
    with pytest.raises(ValueError, match=message):
        mask_head(**options)
