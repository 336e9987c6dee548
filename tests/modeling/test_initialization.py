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
    predictors = [m for n, m in model.roi_heads.named_modules() if n.endswith("predictor")]
    convs = [m for m in predictors if isinstance(m, nn.Conv2d)]
    assert [m.weight.std().item() for m in convs] == pytest.approx(
        [math.sqrt(2 / 37)] * len(convs), rel=0.05
    )
