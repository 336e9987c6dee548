"""Parity of ResNeSt-50 with mmdet, recorded as described in tests/golden/README.md."""

import json
from functools import cache

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from d2_seesaw.checkpoint import convert_resnest
from d2_seesaw.modeling.backbones import TimmBackbone
from tests.checkpoint.mmdet_weights import mmdet_state, picture

MEAN = torch.tensor([123.68, 116.779, 103.939])[:, None, None]
STD = torch.tensor([58.393, 57.12, 57.375])[:, None, None]


@cache
def recorded():
    with np.load("tests/golden/mmdet_3_3_0_resnest_50.npz") as file:
        return dict(file)


def without_pooling(key):
    """Return the name of a tensor without the pooling that comes first in ResNeSt's shortcuts."""
    for layer in (1, 2):
        key = key.replace(f"downsample.{layer}.", f"downsample.{layer - 1}.")
    return key


def weights():
    shapes = zip(recorded()["names"].tolist(), recorded()["shapes"].tolist(), strict=True)
    shapes = {key: tuple(json.loads(shape)) for key, shape in shapes}
    values = mmdet_state({without_pooling(key): shape for key, shape in shapes.items()})
    return {f"backbone.{key}": values[without_pooling(key)] for key in shapes}


@pytest.fixture(scope="module")
def model():
    model = TimmBackbone("resnest50d")
    # All tensors must match except the numbers of batches.
    missing, unexpected = model.load_state_dict(
        convert_resnest(weights(), model.state_dict()), strict=False
    )
    assert unexpected == []
    assert all(name.endswith("num_batches_tracked") for name in missing)
    return model


@pytest.mark.parametrize("mode", ["evaluation", "training"])
@torch.no_grad()
def test_feature_maps_match_mmdet(model, mode):
    images = torch.stack([picture(name, 64, 96) for name in "ab"])
    features = model.train(mode == "training")((images - MEAN) / STD)
    for name, feature in features.items():
        expected = torch.from_numpy(recorded()[f"{mode} {name}"])
        # Variances over few pixels can be small, so results differ between CPUs by up to 2e-4.
        tolerance = 1e-4 if mode == "evaluation" else 1e-3
        assert_close(feature[:, ::32], expected, rtol=tolerance, atol=tolerance)
        assert expected.std() > 0.1
    if mode == "training":
        for key in ("layer1.0.conv2.bn1.running_mean", "layer4.2.bn3.running_var"):
            expected = torch.from_numpy(recorded()[f"after {key}"])
            assert_close(model.body.state_dict()[key], expected, rtol=1e-4, atol=1e-4)
