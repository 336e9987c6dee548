"""Tests of torchvision's models as backbones. Oracle: torchvision's own feature extractor."""

import copy
import importlib

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling.backbone import FPN
from torch import nn
from torchvision.models import ConvNeXt, MobileNetV2, SwinTransformer, get_model
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.feature_extraction import create_feature_extractor

from d2_seesaw.layers import SyncBatchNorm2d
from d2_seesaw.modeling.backbones import TorchvisionBackbone

# The last block of strides 4, 8, 16 and 32: node of the extractor -> channels.
NODES = {
    "mobilenet_v2": ({"features.3": 24, "features.6": 32, "features.13": 96, "features.18": 1280}),
    "mobilenet_v3_small": (
        {"features.1": 16, "features.3": 24, "features.8": 48, "features.12": 576}
    ),
    "resnet18": {"layer1": 64, "layer2": 128, "layer3": 256, "layer4": 512},
    "regnet_y_400mf": {
        f"trunk_output.block{k}": channels for k, channels in enumerate([48, 104, 208, 440], 1)
    },
    "efficientnet_b0": {"features.2": 24, "features.3": 40, "features.5": 112, "features.8": 1280},
    "densenet121": {
        "features.denseblock1": 256,
        "features.denseblock2": 512,
        "features.denseblock3": 1024,
        "features.norm5": 1024,
    },
    "convnext_tiny": {f"features.{k}": 96 * 2 ** (k // 2) for k in (1, 3, 5, 7)},
    "swin_t": {f"features.{k}": 96 * 2 ** (k // 2) for k in (1, 3, 5, 7)},
}
CHANNELS_LAST = ("swin_t", "tiny_swin")
# Of the same families: quick to build, without a name in torchvision.
STAGES = (8, 16, 24, 32)
TINY = {
    "tiny_swin": lambda: SwinTransformer([4, 4], 8, [1] * 4, [2] * 4, [2, 2]),
    "tiny_convnext": lambda: ConvNeXt(
        [CNBlockConfig(*c, 1) for c in zip(STAGES, (*STAGES[1:], None), strict=True)]
    ),
    "tiny_mobilenet": lambda: MobileNetV2(width_mult=0.25),
}
NODES["tiny_swin"] = {f"features.{k}": 8 * 2 ** (k // 2) for k in (1, 3, 5, 7)}
NODES["tiny_convnext"] = dict(zip(NODES["convnext_tiny"], STAGES, strict=True))
NODES["tiny_mobilenet"] = dict(zip(NODES["mobilenet_v2"], (8, 8, 24, 1280), strict=True))
SLOW_STAGES = [(0, 0), (2, 4), (3, 7), (5, 19)]
FEATURES = ["res2", "res3", "res4", "res5"]
MOBILE = "mobilenet_v2"
NARROW = {"width_mult": 0.25}


@pytest.fixture
def tiny_models(monkeypatch):
    """Let the names of TINY stand for these models."""
    module = "d2_seesaw.modeling.backbones.torchvision._build"
    build = importlib.import_module("d2_seesaw.modeling.backbones.torchvision")._build
    monkeypatch.setattr(
        module, lambda name, options: TINY[name]() if name in TINY else build(name, options)
    )


def image(number=1, height=64, width=96):
    return torch.randn(number, 3, height, width, generator=torch.Generator().manual_seed(number))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in TINY else pytest.mark.slow) for name in NODES],
)
@torch.no_grad()
def test_maps_are_those_of_torchvisions_extractor_bit_for_bit(name, tiny_models):
    torch.manual_seed(0)
    source = (TINY[name]() if name in TINY else get_model(name)).eval()
    model, nodes = TorchvisionBackbone(name, output_norm=False), NODES[name]
    missing, unexpected = model.body.load_state_dict(source.state_dict(), strict=False)
    assert missing == []
    assert {key.split(".")[0] for key in unexpected} <= {"classifier", "fc", "head", "norm"}
    found = model.eval()(image())
    expected = create_feature_extractor(source, dict(zip(nodes, FEATURES, strict=True)))(image())
    assert list(found) == FEATURES
    for stride, channels, feature in zip((4, 8, 16, 32), nodes.values(), FEATURES, strict=True):
        shape = model.output_shape()[feature]
        assert (shape.stride, shape.channels) == (stride, channels)
        assert found[feature].shape == (1, channels, 64 // stride, 96 // stride)
        given = expected[feature]
        given = given.permute(0, 3, 1, 2) if name in CHANNELS_LAST else given
        assert torch.equal(found[feature], given)


@pytest.mark.parametrize(
    ("freeze_at", "frozen"),
    [(1, 2), (4, 14), *(pytest.param(*stage, marks=pytest.mark.slow) for stage in SLOW_STAGES)],
)
def test_frozen_stages_keep_weights_and_statistics_and_build_no_graph(freeze_at, frozen):
    """MobileNetV2's 19 blocks: a stem of 2, then those of strides 4, 8, 16 and 32."""
    torch.manual_seed(0)
    model = TorchvisionBackbone(MOBILE, freeze_at=freeze_at, model_options=NARROW).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    features = model(image(2))
    assert [features[f].requires_grad for f in FEATURES] == [frozen <= k for k in (3, 6, 13, 18)]
    trained = [p for p in model.parameters() if p.requires_grad]
    if trained:
        sum(feature.square().mean() for feature in features.values()).backward()
        torch.optim.SGD(trained, lr=1.0).step()
    fixed = tuple(f"body.features.{k}." for k in range(frozen))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith(fixed), name
    assert all(p.requires_grad != n.startswith(fixed) for n, p in model.named_parameters())
    duplicate = copy.deepcopy(model).eval().train()
    training = [block.training for block in duplicate.body.features.children()]
    assert training == [False] * frozen + [True] * (19 - frozen)


def test_the_stem_of_a_convnext_is_frozen_alone(tiny_models):
    model = TorchvisionBackbone("tiny_convnext", freeze_at=1, out_features=["res2"])
    stem, stage = model.body.features.children()
    assert [p.requires_grad for p in stem.parameters()] == [False] * 4
    assert all(p.requires_grad for p in stage.parameters())


@torch.no_grad()
def test_norms_keep_weights_and_statistics():
    plain = TorchvisionBackbone(MOBILE, model_options=NARROW).eval()
    for name, tensor in plain.state_dict().items():
        if "running" in name:
            tensor.add_(torch.rand_like(tensor))
    for norm, kind in (("FrozenBN", FrozenBatchNorm2d), ("SyncBN", SyncBatchNorm2d)):
        model = TorchvisionBackbone(MOBILE, norm=norm, model_options=NARROW)
        assert sum(isinstance(m, kind) for m in model.modules()) == 52
        assert not any(type(m) is nn.BatchNorm2d for m in model.modules())
        model.load_state_dict(plain.state_dict())
        model = model.train() if norm == "FrozenBN" else model.eval()
        torch.testing.assert_close(model(image()), plain(image()))


@pytest.mark.parametrize("name", ["tiny_swin", "tiny_convnext"])
def test_models_with_layer_norms_get_one_on_each_map(name, tiny_models):
    for x in TorchvisionBackbone(name)(image()).values():
        mean, deviation = x.mean(1), x.std(1, unbiased=False)
        torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-5, rtol=0)
        torch.testing.assert_close(deviation, torch.ones_like(mean), atol=0.05, rtol=0)
    assert not TorchvisionBackbone("tiny_mobilenet").output_norms


def test_a_pyramid_is_built_on_it_and_unused_parts_are_left_out():
    bottom_up = TorchvisionBackbone(MOBILE, out_features=["res3", "res4"], model_options=NARROW)
    assert len(bottom_up.body.features) == 14
    assert [name for name, _ in bottom_up.body.named_children()] == ["features"]
    features = FPN(bottom_up, ["res3", "res4"], out_channels=8)(image())
    assert [tuple(x.shape) for x in features.values()] == [(1, 8, 8, 12), (1, 8, 4, 6)]
    assert bottom_up.size_divisibility == 16


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mobilnet_v2", {}, "no classifier 'mobilnet_v2'; did you mean 'mobilenet_v2'"),
        ("alexnet", {}, r"no features \['res2', 'res3', 'res4', 'res5'\]; it has none"),
        ("squeezenet1_1", {}, "squeezenet1_1 has no features"),
        ("vit_b_16", {}, "vit_b_16 has no feature maps .*Wrong image height"),
        (MOBILE, {"model_options": {"depth": 2}}, r"model_options of mobilenet_v2: .*'depth'"),
        (MOBILE, {"out_features": ["res6"]}, r"no features \['res6'\]; it has res2 \(stride 4\), "),
        (MOBILE, {"freeze_at": 6}, r"freeze_at must be 0, 1 or the number of one of .*got 6"),
        (MOBILE, {"freeze_at": -1}, r"freeze_at must be 0, 1 .*got -1"),
        (MOBILE, {"norm": "GN"}, "norm must be one of BN, FrozenBN, SyncBN, got 'GN'"),
        ("tiny_convnext", {"norm": "FrozenBN"}, "no batch norm to replace by 'FrozenBN'"),
    ],
)
def test_invalid_options_are_reported(name, options, message, tiny_models):
    options = {"model_options": NARROW if name == MOBILE else None} | options
    large = name in ("alexnet", "vit_b_16")
    with torch.device("meta" if large else "cpu"), pytest.raises(ValueError, match=message):
        TorchvisionBackbone(name, **options)
