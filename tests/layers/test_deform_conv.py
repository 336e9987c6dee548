"""Tests of deformable convolution against plain ones, shifts and finite differences."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from detectron2.layers import Conv2d as HostConv2d
from detectron2.modeling.backbone.resnet import BottleneckBlock
from torch import nn
from torch.testing import assert_close

from d2_seesaw.layers import DeformConv2d, NormedConv2d, deform_convs

GRIDS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "padding": 1, "stride": 2, "bias": False},
    {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 2},
    {"kernel_size": 1},
    {"kernel_size": (3, 1), "padding": (1, 0)},
]
every_grid = pytest.mark.parametrize("grid", GRIDS, ids=str)


def set_offset(layer, offsets, masks=0.0):
    """Set the offsets ``(G, K, 2)`` and the mask logits, the same at every position."""
    with torch.no_grad():
        number = offsets.numel()
        layer.conv_offset.weight.zero_()
        layer.conv_offset.bias[:number] = offsets.flatten()
        layer.conv_offset.bias[number:] = masks


def with_learned_offsets(layer, std=0.7):
    """Make offsets and masks of a layer depend on the features, as after training."""
    nn.init.normal_(layer.conv_offset.weight, std=std / 4)
    nn.init.normal_(layer.conv_offset.bias, std=std)
    return layer


# --- the operation ---


@every_grid
@pytest.mark.parametrize("gain", [1.0, 2.0])
def test_initially_equals_the_plain_convolution_times_half_the_gain(grid, gain):
    layer = DeformConv2d(4, 6, **grid, deform_groups=2, mask_gain=gain)
    plain = nn.Conv2d(4, 6, **grid)
    plain.load_state_dict(layer.state_dict(), strict=False)
    x = torch.randn(2, 4, 7, 6)
    bias = 0 if plain.bias is None else plain.bias[:, None, None]
    assert_close(layer(x), (plain(x) - bias) * gain / 2 + bias)


def test_each_tap_and_each_group_has_its_own_offset_and_mask():
    layer = DeformConv2d(4, 3, (2, 1), deform_groups=2, bias=False)
    offsets = torch.tensor([[[0.0, 1], [2, 0]], [[1, 1], [0, 3]]])  # (group, tap, dy and dx)
    masks = torch.tensor([[0.3, -1.0], [2.0, 0.7]])
    set_offset(layer, offsets, masks.flatten())
    x = torch.randn(1, 4, 9, 8)
    expected = torch.zeros(1, 3, 8, 8)
    for group in range(2):
        for tap in range(2):
            dy, dx = offsets[group, tap].int().tolist()
            channels = slice(2 * group, 2 * group + 2)
            seen = x.roll((-dy - tap, -dx), (2, 3))[:, channels, :8]
            weight = layer.weight[:, channels, tap, 0] * masks[group, tap].sigmoid()
            expected += torch.einsum("oc,nchw->nohw", weight, seen)
    assert_close(layer(x)[:, :, :5, :5], expected[:, :, :5, :5])


def test_half_offsets_interpolate():
    layer = DeformConv2d(1, 1, 1, mask_gain=2.0, bias=False)
    nn.init.ones_(layer.weight)
    set_offset(layer, torch.tensor([[[0.5, 0.25]]]))
    x = torch.tensor([[0.0, 4.0], [10.0, 30.0]])[None, None]
    expected = 0.5 * (0.75 * 0 + 0.25 * 4) + 0.5 * (0.75 * 10 + 0.25 * 30)
    assert layer(x)[0, 0, 0, 0].item() == pytest.approx(expected)


def test_gradcheck_at_fractional_offsets():
    layer = DeformConv2d(2, 2, 3, padding=1, deform_groups=2, mask_gain=2.0).double()
    set_offset(layer, 0.2 + 0.6 * torch.rand(2, 9, 2).double(), torch.randn(18).double())
    x = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    parameters = dict(layer.named_parameters())
    assert torch.autograd.gradcheck(
        lambda x, *values: torch.func.functional_call(
            layer, dict(zip(parameters, values, strict=True)), (x,)
        ),
        (x, *parameters.values()),
    )


@pytest.mark.parametrize("number", [0, 1, 3])
def test_image_by_image_gives_the_same_result(number):
    batch = with_learned_offsets(DeformConv2d(4, 6, 3, padding=1))
    single = DeformConv2d(4, 6, 3, padding=1, per_image=True)
    single.load_state_dict(batch.state_dict())
    x = torch.randn(number, 4, 7, 6)
    y = single(x)
    assert y.shape == (number, 6, 7, 6)
    assert_close(y, batch(x))
    y.sum().backward()
    assert all(p.grad is not None for p in single.parameters())


def test_image_by_image_calls_the_operator_with_one_image(monkeypatch):
    seen = []
    original = torchvision.ops.deform_conv2d

    def watched(x, *args, **kwargs):
        seen.append(len(x))
        return original(x, *args, **kwargs)

    monkeypatch.setattr(torchvision.ops, "deform_conv2d", watched)
    DeformConv2d(4, 6, 3, per_image=True)(torch.randn(3, 4, 7, 6))
    DeformConv2d(4, 6, 3)(torch.randn(3, 4, 7, 6))
    assert seen == [1, 1, 1, 3]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast_sample_in_float32(dtype):
    layer = with_learned_offsets(DeformConv2d(4, 6, 3, padding=1))
    x = torch.randn(2, 4, 7, 6)
    expected = layer(x)
    with torch.autocast("cpu", dtype=dtype):
        actual = layer(x)
    assert actual.dtype == dtype  # like a plain convolution
    assert_close(actual.float(), expected, rtol=0.05, atol=0.05)
    actual.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())
    y = layer.to(dtype)(x.to(dtype))
    assert y.dtype == dtype
    assert_close(y.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("per_image", [False, True])
def test_compiles_without_a_graph_break(per_image):
    layer = with_learned_offsets(DeformConv2d(4, 6, 3, padding=1, per_image=per_image))
    x = torch.randn(2, 4, 7, 6)
    assert_close(torch.compile(layer, backend="aot_eager", fullgraph=True)(x), layer(x))


# --- the interface of a convolution ---


@every_grid
def test_weights_of_a_plain_convolution_load_unchanged(grid):
    plain, layer = nn.Conv2d(4, 6, **grid), DeformConv2d(4, 6, **grid)
    result = layer.load_state_dict(plain.state_dict(), strict=False)
    assert result.missing_keys == ["conv_offset.weight", "conv_offset.bias"]
    assert not result.unexpected_keys


def test_offsets_and_masks_have_3_g_k_channels_on_the_output_grid():
    layer = DeformConv2d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2, deform_groups=4)
    offset = layer.conv_offset
    assert offset.out_channels == 3 * 4 * 9
    assert (offset.stride, offset.padding, offset.dilation) == ((2, 2), (2, 2), (2, 2))
    assert offset.groups == 1
    assert not offset.weight.any()
    assert not offset.bias.any()


def test_norm_and_activation_are_applied_last():
    layer = DeformConv2d(4, 6, 3, norm=nn.BatchNorm2d(6).eval(), activation=F.relu)
    nn.init.normal_(layer.norm.bias)
    nn.init.normal_(layer.norm.running_mean)
    x = torch.randn(2, 4, 7, 6)
    bare = DeformConv2d(4, 6, 3)
    bare.load_state_dict(layer.state_dict(), strict=False)
    assert_close(layer(x), layer.norm(bare(x)).clamp(min=0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"deform_groups": 3}, "deform_groups must divide the 4 input channels, got 3"),
        ({"padding": "same"}, "got padding 'same' in mode 'zeros'"),
        ({"padding_mode": "reflect"}, r"got padding \(0, 0\) in mode 'reflect'"),
    ],
)
def test_bad_options_are_reported(options, message):
    with pytest.raises(ValueError, match=message):
        DeformConv2d(4, 6, 3, **options)


def test_print_shows_the_hyper_parameters():
    assert "deform_groups=2, mask_gain=2.0" in repr(
        DeformConv2d(4, 6, 3, deform_groups=2, mask_gain=2.0)
    )


# --- replacing convolutions ---


def stage():
    return nn.Sequential(
        BottleneckBlock(8, 12, bottleneck_channels=4, norm="BN", num_groups=2, stride=2),
        BottleneckBlock(12, 12, bottleneck_channels=4, norm="BN"),
    ).eval()


def test_a_gain_of_2_keeps_the_outputs_of_a_pretrained_network():
    plain = stage()
    for norm in plain.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean)
    names = set(plain.state_dict())
    x = torch.randn(2, 8, 9, 10)
    expected = plain(x)
    deformed = deform_convs(plain, r"\d\.conv2", mask_gain=2.0)
    assert deformed is plain
    assert [type(block.conv2) for block in plain] == [DeformConv2d] * 2
    assert type(plain[0].conv1) is HostConv2d
    assert_close(deformed(x), expected)
    new = {f"{i}.conv2.conv_offset.{kind}" for i in range(2) for kind in ("weight", "bias")}
    assert set(deformed.state_dict()) == names | new


def test_replaced_convolutions_keep_their_parameters_dtype_and_mode():
    network = nn.Sequential(nn.Conv2d(4, 6, 3), nn.Conv2d(6, 4, 3, bias=False)).double().eval()
    network[0].weight.requires_grad_(False)
    before = [network[0].weight, network[0].bias, network[1].weight]
    deform_convs(network, "[01]", deform_groups=2, per_image=True)
    after = [network[0].weight, network[0].bias, network[1].weight]
    assert all(a is b for a, b in zip(after, before, strict=True))
    for conv in network:
        assert not conv.training
        assert conv.conv_offset.weight.dtype == torch.float64
        assert conv.deform_groups == 2
        assert conv.per_image


def test_replaced_convolutions_keep_their_grid_and_groups():
    conv = HostConv2d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2, bias=False)
    new = deform_convs(nn.Sequential(conv), "0")[0]
    for name in ("kernel_size", "stride", "padding", "dilation", "groups", "bias"):
        assert getattr(new, name) == getattr(conv, name)


def test_norm_and_activation_of_detectron2s_convolution_are_kept():
    conv = HostConv2d(4, 6, 3, norm=nn.BatchNorm2d(6).eval(), activation=F.relu)
    nn.init.normal_(conv.norm.running_mean)
    x = torch.randn(2, 4, 7, 6)
    expected = conv(x)
    assert_close(deform_convs(nn.Sequential(conv), "0", mask_gain=2.0)(x), expected)


def test_an_unknown_name_is_reported_with_the_closest_one():
    with pytest.raises(ValueError, match=r"is named '1.conv4'; did you mean '1.conv\d'"):
        deform_convs(stage(), "1.conv4")


@pytest.mark.parametrize("conv", [NormedConv2d(4, 6, 3), DeformConv2d(4, 6, 3)])
def test_specialized_convolutions_are_not_replaced(conv):
    network = nn.Sequential(nn.Conv2d(4, 4, 1), conv)
    with pytest.raises(ValueError, match=f"1 is a {type(conv).__name__}"):
        deform_convs(network, r"\d")
    assert type(network[0]) is nn.Conv2d
