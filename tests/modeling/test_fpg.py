import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone
from torch import nn
from torch.testing import assert_close

from d2_seesaw.layers import CarafeDownsample, DeformConv2d
from d2_seesaw.modeling import FPG
from tests.checkpoint.mmdet_weights import uniform
from tests.support.operators import SavedForBackward

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "mmdet_3_3_0_fpg.npz")
FEATURES = ["res2", "res3", "res4", "res5"]
LEVELS = ["p2", "p3", "p4", "p5", "p6"]
C = 4


class Features(Backbone):
    """Backbone with the shapes of a ResNet and given features."""

    def __init__(self, channels=(3, 4, 5, 6), features=None):
        super().__init__()
        self.features = features
        self._out_features = FEATURES
        self._out_feature_channels = dict(zip(FEATURES, channels, strict=True))
        self._out_feature_strides = dict(zip(FEATURES, (4, 8, 16, 32), strict=True))

    def forward(self, x):  # pyright: ignore[reportIncompatibleMethodOverride]
        if self.features is not None:
            return self.features
        return {
            name: c * F.avg_pool2d(x, self._out_feature_strides[name]).repeat(1, 2, 1, 1)[:, :c]
            for name, c in self._out_feature_channels.items()
        }


def fpg(bottom_up=None, **options):
    return FPG(bottom_up or Features(), FEATURES, C, **{"stack": 5} | options)


def images(height=64, width=128):
    return torch.randn(2, 3, height, width)


# --- the network ---


def mmdet_key(key):
    """Return mmdet's name of a tensor; there each transition is a ``ConvModule``."""
    key = re.sub(
        r"^pathways\.(\d+)\.p(\d)\.(\w+)",
        lambda m: f"fpn_transitions.{m[1]}.{int(m[2]) - 2}.{m[3]}",
        key,
    )
    key = re.sub(r"across_down\.", "across_down.conv.", key)
    key = re.sub(r"^output_convs\.(\d)", r"output_transition.\1.conv_out.conv", key)
    return key.replace(".norm.", ".bn.")


def mmdet_weight(key, shape):
    if key.endswith("num_batches_tracked"):
        return torch.tensor(0)
    u = torch.from_numpy(uniform(key, shape))
    if key.endswith(("running_var", "bn.weight")):
        return 1 + u / 2
    return u * math.sqrt(1.5 / math.prod(shape[1:])) if len(shape) == 4 else u


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_outputs_match_mmdet(mode):
    given = {
        name: torch.from_numpy(uniform(name, (2, 3 + i, 32 >> i, 64 >> i)))
        for i, name in enumerate(FEATURES)
    }
    model = fpg(Features(features=given), stack=6).train(mode == "train")
    state = {k: mmdet_weight(mmdet_key(k), v.shape) for k, v in model.state_dict().items()}
    model.load_state_dict(state)
    outputs = model(torch.zeros(2, 3, 128, 256))
    for name, every in zip(LEVELS, (8, 4, 2, 1, 1), strict=True):
        expected = torch.from_numpy(GOLDEN[f"{mode} {name}"])
        assert_close(outputs[name][:, :, ::every, ::every], expected, rtol=1e-4, atol=1e-4)


def test_the_full_size_has_35_cells_and_41_6_million_parameters():
    with torch.device("meta"):
        model = FPG(Features((256, 512, 1024, 2048)), FEATURES, 256)
    assert sum(len(pathway) for pathway in model.pathways) == 35
    assert sum(p.numel() for p in model.parameters()) == 41_616_640  # counted in mmdet
    active = [[name for name in LEVELS if hasattr(pathway, name)] for pathway in model.pathways]
    assert active == [LEVELS[max(0, 4 - s) :] for s in range(9)]


def set_identity(conv, scale):
    nn.init.dirac_(conv.weight)
    conv.weight.data *= scale


# Factor of each kind of transition when its convolution copies the center pixel.
SHARES = {"across_lateral": 1.0, "across_skip": 10.0, "same_up": 100.0, "across_down": 1000.0}


def copying(**options):
    """Build an FPG whose transitions copy pixels, scaled by the factor in ``SHARES``."""
    model = fpg(Features((C, C, C, C)), norm="", **options)
    for name, conv in model.named_modules():
        if isinstance(conv, nn.Conv2d):
            kind = next((k for k in SHARES if k in name), None)
            set_identity(conv, SHARES[kind] if kind else 1.0)
            nn.init.zeros_(conv.bias)
    return model


def test_a_cell_is_the_sum_of_its_neighbors():
    # Positive features, so that the ReLUs change nothing.
    model = copying(stack=1, skip=[(), (), (), (), ()])
    given = {n: torch.rand(2, C, 32 >> i, 64 >> i) for i, n in enumerate(FEATURES)}
    model.bottom_up.features = given
    first = [*given.values(), given["res5"][:, :, ::2, ::2]]
    outputs = model(torch.zeros(2, 3, 128, 256))
    finer = None
    for i, name in enumerate(LEVELS):
        expected = 11 * first[i]
        if i > 0:
            expected = expected + 100 * finer[:, :, ::2, ::2]
        if i < 4:
            above = first[i + 1].repeat_interleave(2, 2).repeat_interleave(2, 3)
            expected = expected + 1000 * above
        finer = expected
        assert_close(outputs[name], expected)


def test_each_transition_starts_with_a_relu():
    model = copying(stack=1, skip=[(), (), (), (), ()])
    given = {n: -torch.rand(2, C, 32 >> i, 64 >> i) for i, n in enumerate(FEATURES)}
    first = [*given.values(), given["res5"][:, :, ::2, ::2]]
    levels = model.pathways[0](first, first)
    for level in levels:
        assert_close(level, torch.zeros_like(level))


def test_skipped_cells_reuse_the_previous_pathway():
    model = fpg(stack=2, skip=[[0, 1], [1], [], [0], []], norm="").eval()
    assert [set(pathway) for pathway in model.pathways] == [{"p3", "p4", "p6"}, {"p4", "p5", "p6"}]
    seen = []
    for pathway in model.pathways:
        pathway.register_forward_hook(lambda _, args, output: seen.append((args[0], output)))
    model(images())
    for (before, after), kept in zip(seen, ([0, 3], [0, 1]), strict=True):
        assert [i for i in range(5) if after[i] is before[i]] == kept


# --- the backbone interface ---


@pytest.mark.parametrize("options", [{}, {"down": "carafe", "up_conv": "dcnv2"}])
def test_outputs_have_the_announced_shapes(options):
    model = fpg(**options)
    outputs = model(images())
    shapes = model.output_shape()
    assert list(outputs) == list(shapes) == LEVELS
    for stride, name in zip((4, 8, 16, 32, 64), LEVELS, strict=True):
        assert shapes[name] == ShapeSpec(channels=C, stride=stride)
        assert outputs[name].shape == (2, C, 64 // stride, 128 // stride)
    assert model.size_divisibility == 64


@pytest.mark.parametrize("size", [(96, 128), (128, 100)])
def test_invalid_image_sizes_are_rejected_before_the_backbone_runs(size):
    model = fpg(Features(features={}))
    with pytest.raises(ValueError, match=rf"multiples of 64, .* got \({size[0]}, {size[1]}\)"):
        model(images(*size))


def test_every_parameter_gets_a_gradient():
    model = fpg(down="carafe", up_conv="dcnv2")
    sum(y.square().sum() for y in model(images()).values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_convolutions_are_initialized_with_caffe2_xavier():
    model = FPG(Features(), FEATURES, 64, stack=5)
    for name, conv in model.named_modules():
        if isinstance(conv, nn.Conv2d):
            bound = math.sqrt(3 / conv.weight[0].numel())
            assert conv.weight.abs().max().item() == pytest.approx(bound, rel=0.1), name
            assert conv.bias is None or not conv.bias.any()


# --- options ---


def test_the_enhanced_grid_uses_carafe_and_deformable_convolutions():
    model = fpg(down="carafe", up_conv="dcnv2")
    for pathway in model.pathways:
        for name, cell in pathway.items():
            if name != "p2":
                kinds = [type(m) for m in cell.same_up]
                assert kinds == [nn.ReLU, CarafeDownsample, nn.Conv2d, nn.BatchNorm2d]
                assert cell.same_up.conv.stride == (1, 1)
            if name != "p6":
                kinds = [type(m) for m in cell.across_down]
                assert kinds == [nn.ReLU, nn.Upsample, DeformConv2d, nn.BatchNorm2d]
                assert cell.across_down.conv.per_image


def test_bare_carafe_is_a_single_carafe_layer():
    model = fpg(down="bare_carafe")
    assert all(type(p["p6"].same_up) is CarafeDownsample for p in model.pathways)
    assert model(images())["p6"].shape == (2, C, 1, 2)


@pytest.mark.parametrize("norm", ["BN", lambda channels: nn.BatchNorm2d(channels)])
def test_the_norm_is_a_name_or_a_function(norm):
    cell = fpg(norm=norm).pathways[-1]["p3"]
    assert isinstance(cell.across_skip.norm, nn.BatchNorm2d)
    assert cell.across_skip.conv.bias is None


def test_without_a_norm_convolutions_have_a_bias():
    cell = fpg(norm="").pathways[-1]["p3"]
    assert [type(m) for m in cell.across_skip] == [nn.ReLU, nn.Conv2d]
    assert cell.across_skip.conv.bias is not None


@pytest.mark.parametrize("options", [{}, {"down": "carafe", "up_conv": "dcnv2"}])
def test_checkpointing_changes_nothing_but_memory(options):
    plain, ours = fpg(**options), fpg(**options, activation_checkpointing=True)
    ours.load_state_dict(plain.state_dict())
    x = images(128, 128)
    held = []
    for model in (plain, ours):
        with SavedForBackward() as saved:
            loss = sum(y.square().sum() for y in model(x).values())
        held.append(saved.nbytes())
        loss.backward()
    for (name, a), b in zip(plain.named_parameters(), ours.parameters(), strict=True):
        assert_close(a.grad, b.grad, msg=lambda m, name=name: f"{name}: {m}")
    assert_close(ours.state_dict(), plain.state_dict(), rtol=0, atol=0)
    assert held[1] < held[0] / 3


def test_compiles_without_a_graph_break():
    model = fpg(down="carafe", up_conv="dcnv2", stack=1, skip=[(0,)] * 3 + [()] * 2)
    x = images()
    expected = model(x)
    assert_close(torch.compile(model, backend="eager", fullgraph=True)(x), expected)


# --- bad options ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"down": "pool"}, "down must be one of conv, carafe, bare_carafe, got 'pool'"),
        ({"up_conv": "dcn"}, "up_conv must be one of conv, dcnv2, got 'dcn'"),
        ({"skip": [()] * 4}, "from 0 to 4 for each of 5 levels"),
        ({"skip": [(5,), (), (), (), ()]}, "from 0 to 4 for each of 5 levels"),
    ],
)
def test_bad_options_are_reported(options, message):
    with pytest.raises(ValueError, match=message):
        fpg(**options)


def test_strides_must_double():
    with pytest.raises(ValueError, match=r"must double .* got {'res2': 4, 'res4': 16}"):
        FPG(Features(), ["res2", "res4"], C)
