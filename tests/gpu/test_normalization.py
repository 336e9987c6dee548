"""Tests of normalization layers on the GPU, in one process."""

import pytest
import torch
from torch import nn

from d2_seesaw.layers import SyncBatchNorm2d, layer_norm
from tests.gpu.agreement import AUTOCAST, assert_agrees

pytestmark = pytest.mark.gpu

CHANNELS = 6


def new_norm(channels: int = CHANNELS) -> nn.BatchNorm2d:
    """Make a batch norm with random parameters."""
    norm = SyncBatchNorm2d(channels)
    generator = torch.Generator().manual_seed(0)
    for parameter in norm.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5, generator)
    return norm


@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_batch_norm_on_one_process(mode, device):
    norm = new_norm().train(mode == "training")
    assert_agrees(norm, torch.randn(4, CHANNELS, 7, 9) + 3, device=device)


@pytest.mark.parametrize("dtype", AUTOCAST, ids=str)
def test_batch_norm_under_autocast(dtype, device):
    x = torch.randn(4, CHANNELS, 7, 9)
    assert_agrees(new_norm(), x, device=device, autocast=dtype, tolerance=AUTOCAST[dtype])


def test_layer_norm(device):
    assert_agrees(layer_norm()(16), torch.randn(5, 16), device=device)
