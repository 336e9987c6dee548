"""Tests of layers on the GPU: CARAFE, deformable convolutions, pooling with offsets, predictors."""

import copy

import pytest
import torch
from torch import Tensor, nn

from d2_seesaw.layers import (
    CarafeDownsample,
    CarafeUpsample,
    DeformConv2d,
    NormedConv2d,
    NormedLinear,
    roi_align_with_offsets,
)
from d2_seesaw.layers.activation_checkpoint import checkpointed
from d2_seesaw.layers.carafe import carafe, carafe_down
from d2_seesaw.layers.predictors import conv1x1_channel
from tests.gpu.agreement import AUTOCAST, assert_agrees, assert_close_to

pytestmark = pytest.mark.gpu

autocast_dtypes = pytest.mark.parametrize("dtype", AUTOCAST, ids=str)


def spread(module: nn.Module, std: float = 0.3) -> nn.Module:
    """Randomize all parameters: some are initialized with zeros and would have no effect."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std)
    return module


# --- CARAFE ---


@pytest.mark.parametrize("new_layer", [CarafeUpsample, CarafeDownsample])
def test_carafe(new_layer, device):
    layer = spread(new_layer(16, groups=2, compressed_channels=8))
    assert_agrees(layer, torch.randn(3, 16, 9, 10), device=device)


@autocast_dtypes
def test_carafe_under_autocast(dtype, device):
    layer = spread(CarafeUpsample(16, compressed_channels=8), std=0.1)
    x = torch.randn(3, 16, 9, 10)
    assert_agrees(layer, x, device=device, autocast=dtype, tolerance=AUTOCAST[dtype])


def test_carafe_with_given_kernels(device):
    features = torch.randn(2, 8, 6, 7)
    assert_agrees(carafe, features, torch.randn(2, 25, 12, 14), device=device)
    assert_agrees(carafe_down, features, torch.randn(2, 25, 3, 4), device=device)


def test_carafe_of_zero_rois(device):
    layer = CarafeUpsample(16).to(device)
    x = torch.zeros(0, 16, 14, 14, device=device, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.shape == x.shape


# --- deformable convolution ---


@pytest.mark.parametrize("per_image", [False, True])
def test_deformable_convolution(per_image, device):
    conv = DeformConv2d(8, 12, 3, padding=1, stride=2, deform_groups=2, per_image=per_image)
    assert_agrees(spread(conv, std=0.2), torch.randn(3, 8, 15, 18), device=device)


@autocast_dtypes
@torch.no_grad()
def test_deformable_convolution_under_autocast(dtype, device):
    # Compare only values: gradients of offsets jump where a tap crosses the center of a pixel,
    # and offsets are computed in the lower precision.
    conv = spread(DeformConv2d(8, 12, 3, padding=1), std=0.05)
    x = nn.functional.interpolate(torch.randn(2, 8, 5, 6), (15, 18), mode="bilinear")
    expected = conv(x)
    with torch.autocast(device.type, dtype):
        found = copy.deepcopy(conv).to(device)(x.to(device))
    assert found.dtype == dtype
    assert_close_to({"output": found.cpu()}, {"output": expected}, AUTOCAST[dtype])


# --- pooling with offsets ---


def rois_in_and_across_borders(number: int) -> Tensor:
    """Draw ``(R, 5)`` RoIs of two images of 160 x 224 pixels."""
    corners = torch.rand(number, 2) * torch.tensor([264.0, 200.0]) - 20
    boxes = torch.cat([corners, corners + 4 + torch.rand(number, 2) * 90], dim=1)
    return torch.cat([torch.arange(float(number))[:, None] % 2, boxes], dim=1)


@pytest.mark.parametrize("per_bin", [False, True])
def test_pooling_with_offsets(per_bin, device):
    rois = rois_in_and_across_borders(30)
    offsets = 8 * (torch.randn(30, 2, 5, 5) if per_bin else torch.randn(30, 2))

    def pool(features: Tensor, offsets: Tensor) -> Tensor:
        return roi_align_with_offsets(
            features, rois.to(features.device), offsets, 5, spatial_scale=1 / 8
        )

    assert_agrees(pool, torch.randn(2, 6, 20, 28), offsets, device=device)


@autocast_dtypes
def test_pooling_of_half_precision_features_with_offsets(dtype, device):
    features, rois = torch.randn(2, 6, 20, 28).to(dtype), rois_in_and_across_borders(30)
    offsets = 8 * torch.randn(30, 2)
    expected = roi_align_with_offsets(features, rois, offsets, 5, spatial_scale=1 / 8)
    on_device = [tensor.to(device) for tensor in (features, rois, offsets)]
    found = roi_align_with_offsets(*on_device, 5, spatial_scale=1 / 8)
    assert found.dtype == dtype
    # Both sample in float32 and round the result.
    assert_close_to({"output": found.cpu()}, {"output": expected}, torch.finfo(dtype).eps)


# --- normalized layers, and one channel of many ---


def test_normalized_linear_layer(device):
    assert_agrees(NormedLinear(32, 1205), torch.randn(40, 32), device=device)


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_normalized_convolution(power, device):
    assert_agrees(NormedConv2d(16, 80, power=power), torch.rand(5, 16, 14, 14), device=device)


class Channel(nn.Module):
    """Predictor of the mask of each RoI's class only."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, classes: Tensor) -> Tensor:
        return conv1x1_channel(self.conv, x, classes)


@pytest.mark.parametrize("new_conv", [nn.Conv2d, NormedConv2d])
def test_one_channel(new_conv, device):
    inputs = torch.rand(12, 16, 14, 14), torch.randint(80, (12,))
    assert_agrees(Channel(new_conv(16, 80, 1)), *inputs, device=device)


@autocast_dtypes
@pytest.mark.parametrize("new_conv", [nn.Conv2d, NormedConv2d])
def test_one_channel_under_autocast(new_conv, dtype, device):
    inputs = torch.rand(12, 16, 14, 14), torch.randint(80, (12,))
    tolerance = AUTOCAST[dtype]
    conv = Channel(new_conv(16, 80, 1))
    assert_agrees(conv, *inputs, device=device, autocast=dtype, tolerance=tolerance)


# --- recomputation ---


class Recomputed(nn.Module):
    """Layer with batch norm whose activations are recomputed in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return checkpointed(self.layers, x)


def test_recomputation(device):
    assert_agrees(Recomputed(), torch.randn(3, 8, 12, 12), device=device)
