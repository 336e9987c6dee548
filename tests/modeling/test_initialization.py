"""Tests of initial weights that follow mmdet."""

import math

import pytest
from detectron2.config import instantiate
from torch import nn

from tests.checkpoint.test_mmdet_training_step import config


def glorot_limit(weight):
    """Return the largest weight that Glorot and Bengio's equation 16 allows."""
    area = weight[0, 0].numel()
    return math.sqrt(6 / (area * (weight.shape[0] + weight.shape[1])))


@pytest.mark.parametrize("name", ["mask_rcnn", "cascade_mask_rcnn"])
def test_fpn_and_box_heads_start_with_glorots_distribution(name):
    model = instantiate(config(name).model)
    layers = [m for n, m in model.backbone.named_children() if n.startswith("fpn_")]
    layers += [m for m in model.roi_heads.box_head.modules() if isinstance(m, nn.Linear)]
    assert len(layers) == 8 + 2 * (3 if "cascade" in name else 1)
    for layer in layers:
        largest = layer.weight.abs().max().item()
        assert largest == pytest.approx(glorot_limit(layer.weight), rel=1e-3)
        assert largest <= glorot_limit(layer.weight) * (1 + 1e-6)
        assert not layer.bias.any()


def test_the_mask_predictor_of_mask_rcnn_starts_with_he_s_distribution_for_its_outputs():
    head = instantiate(config("mask_rcnn").model).roi_heads.mask_head
    assert head.predictor.weight.std().item() == pytest.approx(math.sqrt(2 / 37), rel=0.05)


def test_the_mask_heads_of_a_cascade_start_as_pytorch_does():
    # Measured in mmdet 3.3.0 after init_weights: std 0.0181 and 0.0361, largest bias 0.06.
    for head in instantiate(config("cascade_mask_rcnn").model).roi_heads.mask_head:
        for layer, inputs in ((head.deconv, 1024), (head.predictor, 256)):
            limit = 1 / math.sqrt(inputs)
            assert layer.weight.abs().max().item() == pytest.approx(limit, rel=1e-3)
            assert layer.weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.05)
            assert 0.5 * limit < layer.bias.abs().max().item() <= limit
