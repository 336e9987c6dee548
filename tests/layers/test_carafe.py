"""Tests of CARAFE against its formula in loops, finite differences and closed forms."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from d2_seesaw.layers import CarafeDownsample, CarafeUpsample
from d2_seesaw.layers.carafe import carafe, carafe_down
from tests.support.operators import SavedForBackward

FUNCTIONS = {"up": carafe, "down": carafe_down}
MODULES = {"up": CarafeUpsample, "down": CarafeDownsample}
DIRECTIONS = ["up", "down"]
every_direction = pytest.mark.parametrize("direction", DIRECTIONS)


def out_size(direction, size, scale):
    return scale * size if direction == "up" else -(-size // scale)


def kernels_for(x, direction, *, k, scale=2, groups=1):
    """Return random kernels. They are not normalized, because the sum accepts any weights."""
    size = [out_size(direction, side, scale) for side in x.shape[-2:]]
    return torch.randn(len(x), groups * k * k, *size, dtype=x.dtype)


def reference_carafe(x, kernels, direction, scale, groups):
    """Compute the formula, one output value at a time."""
    N, C, H, W = x.shape
    k = round((kernels.shape[1] // groups) ** 0.5)
    y = torch.zeros(N, C, *kernels.shape[2:], dtype=x.dtype)
    for n, c, v, u in torch.cartesian_prod(*map(torch.arange, y.shape)).tolist():
        g = c // (C // groups)
        for i in range(k):
            for j in range(k):
                if direction == "up":
                    row, column = v // scale + i - k // 2, u // scale + j - k // 2
                else:
                    row, column = v * scale + i - k // 2, u * scale + j - k // 2
                if 0 <= row < H and 0 <= column < W:
                    y[n, c, v, u] += kernels[n, g * k * k + i * k + j, v, u] * x[n, c, row, column]
    return y


# --- the weighted sum ---


@every_direction
@pytest.mark.parametrize(
    ("shape", "k", "scale", "groups"),
    [
        ((2, 4, 3, 5), 3, 2, 1),
        ((1, 4, 5, 3), 3, 2, 2),
        ((1, 3, 2, 4), 5, 3, 3),
        ((1, 2, 4, 4), 1, 2, 1),
        ((2, 2, 4, 3), 3, 1, 1),
    ],
)
def test_matches_the_formula(direction, shape, k, scale, groups):
    x = torch.randn(shape, dtype=torch.float64)
    kernels = kernels_for(x, direction, k=k, scale=scale, groups=groups)
    actual = FUNCTIONS[direction](x, kernels, scale=scale, groups=groups)
    assert_close(actual, reference_carafe(x, kernels, direction, scale, groups))


@every_direction
def test_gradcheck(direction):
    x = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    kernels = kernels_for(x, direction, k=3, groups=2).requires_grad_()
    function = FUNCTIONS[direction]
    assert torch.autograd.gradcheck(lambda x, w: function(x, w, groups=2), (x, kernels))


@every_direction
def test_memory_for_the_backward_pass_is_far_below_that_of_im2col(direction):
    x = torch.randn(1, 32, 20, 20, requires_grad=True)
    kernels = kernels_for(x, direction, k=5).requires_grad_()
    with SavedForBackward() as ours:
        FUNCTIONS[direction](x, kernels)
    padded = 32 * 24 * 24 * 4
    assert ours.nbytes() <= padded + kernels.nbytes
    assert ours.nbytes() < 25 * x.nbytes / 5


@pytest.mark.parametrize(
    ("features", "kernels", "groups"),
    [
        ((1, 4, 4, 4), (1, 25, 4, 4), 1),  # wrong scale
        ((1, 4, 4, 4), (1, 24, 8, 8), 1),  # not a square number of taps
        ((1, 4, 4, 4), (1, 16, 8, 8), 1),  # even kernel size
        ((1, 4, 4, 4), (2, 25, 8, 8), 1),  # different batch size
        ((1, 4, 4, 4), (1, 27, 8, 8), 3),  # groups of unequal size
        ((1, 4, 4, 4), (1, 0, 8, 8), 1),
    ],
)
@every_direction
def test_kernels_that_do_not_fit_are_reported(direction, features, kernels, groups):
    if direction == "down":
        kernels = (*kernels[:2], kernels[2] // 4, kernels[3] // 4)
    with pytest.raises(ValueError, match=rf"need kernels of shape .* got kernels \({kernels[0]}, "):
        FUNCTIONS[direction](torch.zeros(features), torch.zeros(kernels), groups=groups)


# --- the modules ---


def sampler(direction, channels=4, **options):
    """Return a module whose kernels depend on the features, as after training."""
    module = MODULES[direction](channels, **{"compressed_channels": 3, "kernel_size": 3} | options)
    nn.init.normal_(module.content_encoder.weight)
    nn.init.normal_(module.content_encoder.bias)
    return module


@every_direction
@pytest.mark.parametrize(("scale", "groups"), [(2, 1), (2, 2), (3, 2)])
def test_kernels_are_a_softmax_over_the_taps_of_each_place(direction, scale, groups):
    module = sampler(direction, scale=scale, groups=groups).double()
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    weights = module.state_dict()
    compressed = F.conv2d(
        x, weights["channel_compressor.weight"], weights["channel_compressor.bias"]
    )
    stride = 1 if direction == "up" else scale
    encoded = F.conv2d(
        compressed,
        weights["content_encoder.weight"],
        weights["content_encoder.bias"],
        padding=1,
        stride=stride,
    )
    kernels = torch.zeros_like(kernels_for(x, direction, k=3, scale=scale, groups=groups))
    for v in range(kernels.shape[2]):
        for u in range(kernels.shape[3]):
            for g in range(groups):
                if direction == "up":  # each tap has one channel per sub-pixel
                    sub_pixel = v % scale * scale + u % scale
                    logits = encoded[:, sub_pixel :: scale**2, v // scale, u // scale]
                else:
                    logits = encoded[:, :, v, u]
                exp = logits[:, 9 * g : 9 * (g + 1)].exp()
                kernels[:, 9 * g : 9 * (g + 1), v, u] = exp / exp.sum(1, keepdim=True)
    expected = FUNCTIONS[direction](x, kernels, scale=scale, groups=groups)
    assert_close(module(x), expected)


@every_direction
def test_weights_are_not_renormalized_at_the_border(direction):
    module = sampler(direction, kernel_size=5)
    nn.init.zeros_(module.content_encoder.weight)
    nn.init.zeros_(module.content_encoder.bias)
    y = module(torch.ones(1, 4, 12, 12))
    assert_close(y[0, :, 0, 0], torch.full((4,), 9 / 25))  # 3 x 3 of the 25 taps are inside


def test_the_papers_size_has_74148_parameters_under_mmcvs_names():
    module = CarafeUpsample(256)
    shapes = {name: tuple(p.shape) for name, p in module.state_dict().items()}
    assert shapes == {
        "channel_compressor.weight": (64, 256, 1, 1),
        "channel_compressor.bias": (64,),
        "content_encoder.weight": (100, 64, 3, 3),
        "content_encoder.bias": (100,),
    }
    assert sum(p.numel() for p in module.parameters()) == 74_148


@every_direction
def test_initialization_is_xavier_with_nearly_equal_taps(direction):
    module = MODULES[direction](256)
    bound = (6 / (256 + 64)) ** 0.5
    assert module.channel_compressor.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert module.content_encoder.weight.std().item() == pytest.approx(0.001, rel=0.02)
    assert not module.channel_compressor.bias.any()
    assert not module.content_encoder.bias.any()


@every_direction
@pytest.mark.parametrize("size", [(6, 8), (5, 7), (1, 1)])
def test_any_size_is_supported(direction, size):
    y = sampler(direction)(torch.randn(2, 4, *size))
    assert y.shape == (2, 4, *(out_size(direction, side, 2) for side in size))


@every_direction
def test_an_empty_batch_gives_an_empty_output_and_zero_gradients(direction):
    module = sampler(direction)
    x = torch.zeros(0, 4, 6, 6, requires_grad=True)
    y = module(x)
    assert y.shape == (0, 4, *[out_size(direction, 6, 2)] * 2)
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert all((p.grad == 0).all() for p in module.parameters())


@every_direction
def test_autocast_computes_the_softmax_in_float32(direction):
    module = sampler(direction)
    x = torch.randn(2, 4, 8, 8)
    expected = module(x)
    softmaxes = []
    original = torch.Tensor.softmax

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if function is original:
                softmaxes.append(result.dtype)
            return result

    with torch.autocast("cpu", dtype=torch.bfloat16), Watch():
        actual = module(x.bfloat16())
    assert softmaxes == [torch.float32]
    assert actual.dtype == torch.bfloat16
    assert_close(actual.float(), expected, rtol=0.05, atol=0.05)
    actual.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())


@every_direction
def test_under_autocast_taps_are_not_converted_one_by_one(direction):
    x = torch.randn(1, 32, 20, 20, dtype=torch.bfloat16, requires_grad=True)
    module = sampler(direction, channels=32, kernel_size=5)
    with torch.autocast("cpu", dtype=torch.bfloat16), SavedForBackward() as saved:
        module(x)
    im2col = 25 * x.nbytes
    assert saved.nbytes() < im2col / 2


SIZES = [(2, 4, 6, 8), (3, 4, 10, 6)]


@pytest.mark.slow
@every_direction
def test_compiles_without_a_graph_break(direction):
    module = sampler(direction)
    compiled = torch.compile(module, backend="eager", fullgraph=True, dynamic=True)
    for size in SIZES:
        x = torch.randn(size)
        assert_close(compiled(x), module(x))


@pytest.mark.slow
@every_direction
def test_inductor_gives_the_same_values_and_gradients(direction):
    module = sampler(direction)
    x = torch.randn(2, 4, 6, 8, requires_grad=True)
    expected, actual = module(x), torch.compile(module, fullgraph=True)(x)
    assert_close(actual, expected)
    probe = torch.randn_like(expected)
    assert_close(
        torch.autograd.grad(actual, (x, *module.parameters()), probe),
        torch.autograd.grad(expected, (x, *module.parameters()), probe),
        rtol=1e-4,
        atol=1e-4,
    )


@every_direction
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": 4}, "kernel_size must be odd, got 4"),
        ({"encoder_kernel_size": 2}, "encoder_kernel_size must be odd, got 2"),
        ({"groups": 3}, "groups must divide the 4 channels, got 3"),
        ({"scale": 0}, "scale must be at least 1, got 0"),
    ],
)
def test_bad_options_are_reported(direction, options, message):
    with pytest.raises(ValueError, match=message):
        MODULES[direction](4, **options)


@every_direction
def test_print_shows_the_hyper_parameters(direction):
    assert "scale=2, kernel_size=3, groups=2" in repr(sampler(direction, groups=2))
