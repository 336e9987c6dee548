import pytest
import torch
from detectron2.layers import Conv2d as HostConv2d
from torch import nn

from d2_seesaw.layers import NormedConv2d
from d2_seesaw.layers.predictors import conv1x1_channel, is_pointwise
from tests.support.operators import OperatorLog

D, K = 6, 9
CHANNELS = torch.tensor([3, 0, 3, 8])


def layers():
    return [
        nn.Conv2d(D, K, 1),
        nn.Conv2d(D, K, 1, bias=False),
        NormedConv2d(D, K, temperature=7.0),
        NormedConv2d(D, K, power=2.0, eps=0.1, norm_over_kernel=True),
    ]


@pytest.fixture(params=range(len(layers())), ids=["plain", "no bias", "normed", "normed, power 2"])
def conv(request):
    layer = layers()[request.param].double()
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    return layer


def features(number=4):
    x = torch.randn(number, D, 5, 4, dtype=torch.float64)
    if number:
        x[0, :, 0, 0] = 0  # as after a ReLU that is zero in all channels
    return x.requires_grad_()


def values_and_gradients(y, x, conv):
    upstream = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    return y, *torch.autograd.grad(y, [x, *conv.parameters()], upstream)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients_match_the_full_convolution(conv, memory_format):
    x = features().detach().contiguous(memory_format=memory_format).requires_grad_()
    full = conv(x)[torch.arange(len(x)), CHANNELS][:, None]
    torch.testing.assert_close(
        values_and_gradients(conv1x1_channel(conv, x, CHANNELS), x, conv),
        values_and_gradients(full, x, conv),
    )


def test_an_empty_batch_gives_zero_gradients(conv):
    x = features(0)
    y, *gradients = values_and_gradients(conv1x1_channel(conv, x, CHANNELS[:0]), x, conv)
    assert y.shape == (0, 1, 5, 4)
    assert all((g == 0).all() for g in gradients)


def test_the_other_channels_are_never_computed(conv):
    many = nn.Conv2d(D, 1203, 1) if type(conv) is nn.Conv2d else NormedConv2d(D, 1203)
    x = torch.randn(32, D, 28, 28, requires_grad=True)
    with OperatorLog() as log:
        conv1x1_channel(many, x, torch.arange(32)).sum().backward()
    assert log.largest == x.untyped_storage().nbytes()  # the largest of x, products and gradients


@pytest.mark.parametrize("layer", layers())
def test_plain_and_normalized_pointwise_convolutions_are_supported(layer):
    assert is_pointwise(layer)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(D, K, 3, padding=1),
        nn.Conv2d(D, K, 1, stride=2),
        nn.Conv2d(D, K, 1, padding=1),
        nn.Conv2d(D, 2 * D, 1, groups=2),
        HostConv2d(D, K, 1, activation=nn.ReLU()),
        nn.Sequential(nn.Conv2d(D, K, 1)),
    ],
    ids=["3 x 3", "stride", "padding", "groups", "own forward", "other"],
)
def test_other_layers_are_not_supported(layer):
    assert not is_pointwise(layer)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_zero_features_stay_finite_in_half_precision(dtype):
    conv = NormedConv2d(D, K)
    x = features().detach().float()
    x[0, :, 0, 0] = -1
    x.requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        y = conv1x1_channel(conv, x.to(dtype).relu(), CHANNELS)
    result = values_and_gradients(y, x, conv)
    assert all(part.isfinite().all() for part in result)
    exact = values_and_gradients(conv1x1_channel(conv, x.relu(), CHANNELS), x, conv)
    assert torch.nn.functional.cosine_similarity(result[0].flatten(), exact[0].flatten(), 0) > 0.999
