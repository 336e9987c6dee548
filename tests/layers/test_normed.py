"""Tests of normalized layers: recorded values, their formula and zero features."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from d2_seesaw.layers import NormedConv2d, NormedLinear, TauNormalizedLinear

GOLDEN = Path(__file__).parents[1] / "golden"


def with_parameters(layer: nn.Module, weight: Tensor, bias: Tensor) -> nn.Module:
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer


def linear_by_hand(x: Tensor, layer: NormedLinear, power: float) -> list[list[float]]:
    """Compute the formula, one output at a time."""
    outputs = []
    for row in x.tolist():
        norm_x = sum(value**2 for value in row) ** 0.5
        outputs.append([])
        for weights, bias in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True):
            norm_w = sum(value**2 for value in weights) ** 0.5
            product = sum(v * w for v, w in zip(row, weights, strict=True))
            scale = (norm_x**power + layer.eps) * (norm_w**power + layer.eps)
            outputs[-1].append(layer.temperature * product / scale + bias)
    return outputs


# --- linear ---


def test_recorded_linear_values():
    # Recorded with mmdet 3.3.0. The bias is not scaled, and zero features give the bias.
    weight, bias = torch.tensor([[1.0, 2, 2], [0, 0, 0.5]]), torch.tensor([0.1, -0.2])
    layer = with_parameters(NormedLinear(3, 2), weight, bias)
    expected = torch.tensor([[14.766659, -0.2], [0.1, -0.2]])
    assert_close(layer(torch.tensor([[3.0, 4, 0], [0, 0, 0]])), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("power", [1.0, 0.5, 0.0, 2.0])
@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_linear_matches_the_formula(power, eps):
    layer = NormedLinear(5, 3, temperature=7.0, power=power, eps=eps).double()
    with_parameters(layer, torch.randn(3, 5), torch.randn(3))
    x = torch.randn(4, 5, dtype=torch.float64)
    expected = torch.tensor(linear_by_hand(x, layer, power), dtype=torch.float64)
    assert_close(layer(x), expected)


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_linear_gradcheck(power):
    layer = NormedLinear(3, 2, power=power).double()
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, weight, bias: torch.func.functional_call(
            layer, {"weight": weight, "bias": bias}, (x,)
        ),
        (x, torch.randn_like(layer.weight).requires_grad_(), layer.bias),
    )


def test_linear_ignores_the_length_of_features_and_weights():
    layer = with_parameters(NormedLinear(5, 3), torch.randn(3, 5), torch.zeros(3))
    x = torch.randn(4, 5)
    expected = layer(x)
    with torch.no_grad():
        layer.weight.mul_(torch.tensor([[0.5], [3.0], [40.0]]))
    assert_close(layer(x * torch.tensor([[0.5], [1.0], [7.0], [90.0]])), expected)


def test_linear_takes_any_leading_dimensions():
    layer = NormedLinear(5, 3)
    x = torch.randn(2, 4, 5)
    assert_close(layer(x), layer(x.reshape(8, 5)).reshape(2, 4, 3))
    assert layer(torch.zeros(0, 5)).shape == (0, 3)


def test_linear_works_without_a_bias():
    layer = NormedLinear(5, 3, bias=False)
    assert layer.bias is None
    assert_close(layer(torch.zeros(1, 5)), torch.zeros(1, 3))


def test_linear_parameters_match_nn_linear():
    # Checkpoints are interchangeable.
    nn.Linear(5, 3).load_state_dict(NormedLinear(5, 3).state_dict())


def test_linear_weights_start_with_std_0_01_and_bias_0():
    layer = NormedLinear(500, 400)
    assert layer.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert abs(layer.weight.mean().item()) < 1e-4
    assert_close(layer.bias, torch.zeros(400))


# --- convolution ---


def test_recorded_convolution_values():
    weight, bias = torch.tensor([[3.0, 4], [1, 0]])[..., None, None], torch.tensor([0.5, 0])
    layer = with_parameters(NormedConv2d(2, 2), weight, bias)
    x = torch.tensor([[1.0, 0], [1, 0]]).reshape(1, 2, 1, 2)  # the pixels (1, 1) and (0, 0)
    expected = torch.tensor([[20.298973, 0.5], [14.142113, 0]]).reshape(1, 2, 1, 2)
    assert_close(layer(x), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("power", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("norm_over_kernel", [False, True])
def test_1x1_convolution_is_the_linear_layer_at_every_pixel(power, norm_over_kernel):
    options = {"temperature": 7.0, "power": power, "eps": 0.1}
    conv = NormedConv2d(5, 3, norm_over_kernel=norm_over_kernel, **options)
    linear = NormedLinear(5, 3, **options)
    with_parameters(linear, conv.weight[..., 0, 0], torch.randn(3))
    conv = with_parameters(conv, conv.weight.detach(), linear.bias.detach())
    x = torch.randn(2, 5, 4, 3)
    assert_close(conv(x), linear(x.movedim(1, -1)).movedim(-1, 1))


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_values_and_gradients_do_not_depend_on_whether_inputs_or_products_are_scaled(power):
    torch.manual_seed(0)
    x = torch.randn(2, 5, 4, 3, dtype=torch.float64)
    x[0, :, 0, 0] = 0
    few = NormedConv2d(5, 2, power=power, eps=0.1).double()
    nn.init.normal_(few.bias)
    # As many outputs as inputs, of which only two count.
    many = NormedConv2d(5, 5, power=power, eps=0.1).double()
    with torch.no_grad():
        many.weight[:2], many.bias[:2] = few.weight, few.bias
    upstream = torch.randn(2, 2, 4, 3, dtype=torch.float64)
    results = []
    for layer in (few, many):
        z = x.clone().requires_grad_()
        y = layer(z)[:, :2]
        gradients = torch.autograd.grad(y, [z, layer.weight, layer.bias], upstream)
        results.append([y, gradients[0], *(g[:2] for g in gradients[1:])])
    assert_close(*results)


@pytest.mark.parametrize(("norm_over_kernel", "dims"), [(False, (1,)), (True, (1, 2, 3))])
def test_a_larger_kernel_is_normalized_at_each_tap_or_as_a_whole(norm_over_kernel, dims):
    layer = NormedConv2d(4, 3, 3, norm_over_kernel=norm_over_kernel, stride=2, padding=1)
    x = torch.randn(2, 4, 6, 7)
    lengths = layer.weight.pow(2).sum(dim=dims, keepdim=True).sqrt()
    pixel_lengths = x.pow(2).sum(dim=1, keepdim=True).sqrt()
    expected = F.conv2d(20 * x / pixel_lengths, layer.weight / lengths, stride=2, padding=1)
    assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)


def test_convolution_keeps_the_options_of_nn_conv2d():
    layer = NormedConv2d(4, 6, 3, padding=1, padding_mode="circular", groups=2, bias=False)
    assert layer.bias is None
    assert layer(torch.randn(1, 4, 5, 5)).shape == (1, 6, 5, 5)


def test_convolution_parameters_match_nn_conv2d():
    nn.Conv2d(5, 3, 1).load_state_dict(NormedConv2d(5, 3).state_dict())


def test_convolution_weights_start_with_kaiming_fan_out_and_bias_0():
    layer = NormedConv2d(300, 400)
    assert layer.weight.std().item() == pytest.approx((2 / 400) ** 0.5, rel=0.02)
    assert_close(layer.bias, torch.zeros(400))


# --- both ---

LAYERS = {
    "linear": (NormedLinear, (2, 3)),
    "convolution": (NormedConv2d, (2, 3, 1, 1)),
}
both = pytest.mark.parametrize(("layer", "shape"), LAYERS.values(), ids=LAYERS.keys())


@both
@pytest.mark.parametrize("outputs", [4, 2])
@pytest.mark.parametrize("power", [1.0, 0.5, 2.0])
def test_zero_features_give_the_bias_and_finite_gradients(layer, shape, outputs, power):
    layer = layer(3, outputs, power=power)
    nn.init.normal_(layer.bias)
    x = torch.zeros(shape, requires_grad=True)
    y = layer(x)
    assert_close(y.flatten(1), layer.bias.expand(2, outputs))
    y.sum().backward()
    for tensor in (x, layer.weight, layer.bias):
        assert tensor.grad.isfinite().all()


@both
@pytest.mark.parametrize("outputs", [4, 2])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite_and_close(layer, shape, outputs, dtype):
    layer = layer(3, outputs)
    x = torch.cat([torch.zeros(shape), torch.randn(shape), 100 * torch.randn(shape)])
    expected = layer(x)
    actual = layer.to(dtype)(x.to(dtype))
    assert_close(actual, expected.to(dtype), rtol=0.02, atol=20 * 2 * torch.finfo(dtype).eps)


@both
def test_print_shows_the_hyper_parameters(layer, shape):
    assert "temperature=5.0, power=0.5" in repr(layer(3, 4, temperature=5.0, power=0.5))


@pytest.mark.parametrize("tau", ["0.0", "0.5", "0.7", "1.0", "2.0"])
def test_tau_normalization_is_that_of_the_authors_code(tau):
    case = json.loads((GOLDEN / "decoupling_reference.json").read_text())["tau"]
    layer = TauNormalizedLinear(4, 5, tau=float(tau))
    layer.load_state_dict({k: torch.tensor(case[k]) for k in ("weight", "bias")})
    torch.testing.assert_close(layer(torch.tensor(case["x"])), torch.tensor(case["logits"][tau]))
