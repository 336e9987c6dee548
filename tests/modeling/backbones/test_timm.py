"""Tests of timm backbones, mostly with ResNeSt-14, the smallest ResNeSt in timm."""

import builtins
import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling.backbone import FPN
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import nn
from torch.testing import assert_close

from d2_seesaw.layers import SyncBatchNorm2d
from d2_seesaw.modeling.backbones import TimmBackbone
from tests.support.configs import meta_device
from tests.support.operators import OperatorLog

RESNEST = "resnest14d"


def randomized(module):
    """Randomize all norms: timm initializes the last norm of each block with zeros."""
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.dim() == 1 and tensor.is_floating_point() and ".fc" not in name:
                tensor.add_(torch.rand_like(tensor) * 0.5 + (0.2 if "var" in name else 0))
    return module


def backbone(name=RESNEST, **options):
    torch.manual_seed(0)
    return randomized(TimmBackbone(name, **options))


def image(number=2, size=64):
    return torch.randn(number, 3, size, size, generator=torch.Generator().manual_seed(1))


def step(model):
    """Return outputs, gradients and buffers of a training step."""
    outputs = model(image())
    sum(output.square().mean() for output in outputs.values()).backward()
    outputs = {name: output.detach() for name, output in outputs.items()}
    state = {name: b.clone() for name, b in model.state_dict().items() if "running" in name}
    return outputs, [p.grad for p in model.parameters()], state


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("resnest50d", 25.43),
        pytest.param("resnest101e", 46.23, marks=pytest.mark.slow),
        pytest.param("resnest200e", 68.15, marks=pytest.mark.slow),
    ],
)
def test_models_have_the_papers_size_without_the_classifier(name, millions):
    """Check sizes against table 1 of the paper: 27.5, 48.3 and 70.2 million with the classifier."""
    with meta_device():
        model = TimmBackbone(name)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.005)
    shapes = model.output_shape()
    assert [shapes[f].channels for f in ("res2", "res3", "res4", "res5")] == [256, 512, 1024, 2048]


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        (RESNEST, [256, 512, 1024, 2048]),
        ("resnet18", [64, 128, 256, 512]),
        ("convnext_atto", [40, 80, 160, 320]),
        ("mobilenetv3_small_050", [8, 16, 24, 288]),
    ],
)
@torch.no_grad()
def test_feature_maps_have_the_announced_strides_and_channels(name, channels):
    model = TimmBackbone(name).eval()
    features = model(image(size=64))
    assert list(features) == ["res2", "res3", "res4", "res5"]
    for (feature, stride), count in zip(
        {"res2": 4, "res3": 8, "res4": 16, "res5": 32}.items(), channels, strict=True
    ):
        assert features[feature].shape == (2, count, 64 // stride, 64 // stride)
        assert model.output_shape()[feature].channels == count
        assert model.output_shape()[feature].stride == stride


@torch.no_grad()
def test_feature_maps_match_timms_whole_model():
    model = backbone(out_features=["res4", "res2"]).eval()
    whole = timm.create_model(RESNEST).eval()
    whole.load_state_dict(model.body.state_dict(), strict=False)
    x = whole.maxpool(whole.act1(whole.bn1(whole.conv1(image()))))
    res2 = whole.layer1(x)
    expected = {"res4": whole.layer3(whole.layer2(res2)), "res2": res2}
    features = model(image())
    assert list(features) == ["res4", "res2"]
    assert_close(features, expected)


@torch.no_grad()
def test_channels_last_feature_maps_are_permuted():
    options = {"img_size": 64, "window_size": 4, "depths": (1, 1), "embed_dim": 12}
    options["num_heads"] = (2, 2)
    name = "swin_tiny_patch4_window7_224"
    model = TimmBackbone(name, out_features=["res2", "res3"], model_options=options).eval()
    features = model(image())
    assert {f: m.shape[1:] for f, m in features.items()} == {
        "res2": (12, 16, 16),
        "res3": (24, 8, 8),
    }
    assert_close(features["res3"], model.body(image())[1].movedim(3, 1))


def test_layers_after_the_last_requested_feature_are_removed():
    model = TimmBackbone(RESNEST, out_features=["res3", "res4"])
    assert not [name for name, _ in model.named_parameters() if "layer4" in name]
    assert list(model.output_shape()) == ["res3", "res4"]


def test_works_with_detectron2s_fpn():
    model = FPN(TimmBackbone(RESNEST), ["res2", "res3", "res4", "res5"], 8)
    assert [f.shape[2:] for f in model(image()).values()] == [(s, s) for s in (16, 8, 4, 2)]


def test_split_attention_matches_the_paper():
    """Compare with equations 2 to 4 of the ResNeSt paper, with cardinality 1."""
    module = backbone().body.layer2[0].conv2.eval()
    x = torch.randn(3, module.conv.in_channels, 6, 5)
    splits = module.act0(module.bn0(module.conv(x)))
    for sample, output in zip(splits, module(x), strict=True):
        first, second = sample.chunk(2)
        gathered = (first + second).mean((1, 2))[None, :, None, None]
        dense = module.fc2(F.relu(module.bn1(module.fc1(gathered)))).flatten()
        logits = torch.stack(dense.chunk(2))
        weights = logits.exp() / logits.exp().sum(0)
        assert_close(weights.sum(0), torch.ones(len(first)))
        weighted = weights[0, :, None, None] * first + weights[1, :, None, None] * second
        assert_close(output, weighted)


@pytest.mark.parametrize("norm", ["BN", "SyncBN"])
@pytest.mark.parametrize(("freeze_at", "frozen"), [(1, 0), (2, 1), (4, 3)])
def test_frozen_parts_do_not_change_in_training(norm, freeze_at, frozen):
    model = backbone(norm=norm, freeze_at=freeze_at)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    model.eval().train()
    step(model)
    optimizer.step()
    stem = ("body.conv1", "body.bn1")
    fixed = (*stem, *(f"body.layer{k}" for k in range(1, frozen + 1)))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith(fixed), name
    assert all(p.requires_grad != n.startswith(fixed) for n, p in model.named_parameters())


def test_frozen_parts_of_a_copy_stay_frozen():
    model = copy.deepcopy(backbone(freeze_at=2)).train()
    assert not model.body.layer1.training
    assert model.body.layer2.training
    assert not model.eval().body.layer2.training


@pytest.mark.parametrize("options", [{}, {"norm": "SyncBN", "freeze_at": 2}])
def test_checkpointing_changes_neither_results_nor_statistics(options):
    assert_close(step(backbone(checkpoint=True, **options)), step(backbone(**options)))


def test_checkpointing_recomputes_only_the_blocks():
    counts = []
    for checkpoint in (False, True):
        with OperatorLog() as log:
            step(backbone(checkpoint=checkpoint))
        counts.append(log.calls["aten.convolution"])
    stem, blocks = 3, 4 * 5 + 4  # split attention has three convolutions; one shortcut per stage
    assert counts == [stem + blocks, stem + 2 * blocks]
    assert list(backbone(checkpoint=True).state_dict()) == list(backbone().state_dict())


@torch.no_grad()
def test_frozen_norms_keep_weights_and_statistics():
    frozen = TimmBackbone(RESNEST, norm="FrozenBN")
    assert not [m for m in frozen.modules() if isinstance(m, nn.BatchNorm2d)]
    assert isinstance(frozen.body.layer1[0].conv2.bn0, FrozenBatchNorm2d)
    plain = backbone()
    frozen.load_state_dict(plain.state_dict())
    assert_close(frozen.train()(image()), plain.eval()(image()))
    assert_close(frozen.state_dict(), plain.state_dict())


@torch.no_grad()
def test_synchronized_norms_keep_weights_and_statistics():
    torch.manual_seed(0)
    plain = TimmBackbone(RESNEST)
    torch.manual_seed(0)
    synchronized = TimmBackbone(RESNEST, norm="SyncBN")
    norms = [m for m in synchronized.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(isinstance(norm, SyncBatchNorm2d) for norm in norms)
    assert_close(synchronized.state_dict(), plain.state_dict())


DCN = {"dcn_stages": ("res3", "res4", "res5")}


@torch.no_grad()
def test_deformable_convolutions_can_start_equal_to_plain_ones():
    plain = backbone().eval()
    deformable = TimmBackbone(RESNEST, **DCN, dcn_options={"mask_gain": 2.0}).eval()
    missing, unexpected = deformable.load_state_dict(plain.state_dict(), strict=False)
    assert unexpected == []
    assert sorted(missing) == sorted(
        f"body.layer{k}.0.conv2.conv.conv_offset.{name}"
        for k in (2, 3, 4)
        for name in ("weight", "bias")
    )
    assert_close(deformable(image()), plain(image()))


@pytest.mark.slow
def test_resnest_200_has_63_deformable_convolutions():
    with meta_device():
        deformable, plain = TimmBackbone("resnest200e", **DCN), TimmBackbone("resnest200e")
    new = deformable.state_dict().keys() - plain.state_dict().keys()
    assert len(new) == 126
    assert all(".conv2.conv.conv_offset." in name for name in new)
    added = sum(deformable.state_dict()[name].numel() for name in new)
    assert added / 1e6 == pytest.approx(3.36, abs=0.005)


def test_a_plain_resnet_supports_deformable_convolutions():
    with meta_device():
        model = TimmBackbone("resnet18", dcn_stages=("res5",))
    assert hasattr(model.body.layer4[1].conv2, "conv_offset")
    assert not hasattr(model.body.layer3[1].conv2, "conv_offset")


def test_weights_of_the_whole_model_are_read_from_a_file(tmp_path):
    whole = timm.create_model(RESNEST)
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    model = TimmBackbone(RESNEST, pretrained=str(tmp_path / "weights.pth"))
    expected = {k: v for k, v in whole.state_dict().items() if not k.startswith("fc.")}
    assert_close(dict(model.body.state_dict()), expected)


def test_training_on_one_image_gives_an_explanatory_error():
    with pytest.raises(ValueError, match=r"resnest14d normalizes .* got 1: .*SyncBN"):
        TimmBackbone(RESNEST)(image(1))
    TimmBackbone(RESNEST, norm="FrozenBN")(image(1))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnest50", {}, r"no model 'resnest50'; did you mean 'resnest50d'"),
        ("vit_tiny_patch16_224", {}, r"no features \['res2', 'res3', 'res5'\]; it has res4"),
        (RESNEST, {"norm": "GN"}, "norm must be one of BN, FrozenBN, SyncBN, got 'GN'"),
        ("convnext_atto", {"norm": "SyncBN"}, "no batch norm to replace by 'SyncBN'"),
        (RESNEST, {"freeze_at": 6}, r"no separate part that ends with 'res6'.*'res2', 'res3'"),
        ("mobilenetv3_small_050", {"freeze_at": 2}, "no separate part that ends with 'res2'"),
        (RESNEST, {"dcn_stages": ("layer2",)}, "no separate part that ends with 'layer2'"),
        ("convnext_atto", {"dcn_stages": ("res5",)}, "no convolution"),
        ("vgg11", {"checkpoint": True}, "vgg11 has no sequence of blocks"),
        (RESNEST, {"drop_path_rate": 0.1}, "drop_path_rate must be 0 for resnest14d"),
        (RESNEST, {"pretrained": "no.pth"}, "'no.pth' does not exist"),
    ],
)
def test_invalid_options_are_reported(name, options, message):
    with meta_device(), pytest.raises(ValueError, match=message):
        TimmBackbone(name, **options)


def test_drop_path_rates_reach_the_blocks_of_other_models():
    with meta_device():
        model = TimmBackbone("resnet18", drop_path_rate=0.3)
    assert model.body.layer4[1].drop_path.drop_prob == pytest.approx(0.3)


def test_without_timm_the_error_says_how_to_install_it(monkeypatch):
    real_import = builtins.__import__

    def fail(name, *args, **kwargs):
        if name == "timm":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(ImportError, match="pip install timm"):
        TimmBackbone(RESNEST)


EVA = {"img_size": 64, "patch_size": 16, "embed_dim": 16, "depth": 3, "num_heads": 2}


def eva(**options):
    torch.manual_seed(0)
    model = TimmBackbone("eva02_base_patch14_224", out_features=["res4"], **options)
    return model.train()


def test_blocks_with_rotary_positions_can_be_recomputed():
    (output, gradients, _), (expected, expected_gradients, _) = (
        step(eva(checkpoint=checkpoint, model_options=EVA)) for checkpoint in (True, False)
    )
    assert_close(output, expected)
    assert_close(gradients, expected_gradients)


def test_patches_and_positions_of_eva02_are_resized_to_the_model(tmp_path):
    torch.manual_seed(1)
    options = EVA | {"img_size": 224, "patch_size": 14}
    published = timm.create_model("eva02_base_patch14_224", **options)
    torch.save(published.state_dict(), tmp_path / "eva.pth")
    model = eva(pretrained=str(tmp_path / "eva.pth"), model_options=EVA).body.model
    loaded, given = model.state_dict(), published.state_dict()
    assert loaded["patch_embed.proj.weight"].shape == (16, 3, 16, 16)
    expected = resample_abs_pos_embed(given["pos_embed"], (4, 4))
    assert_close(loaded["pos_embed"], expected)
    resized = {"patch_embed.proj.weight", "pos_embed"}
    assert not [k for k in loaded if k not in resized and not torch.equal(loaded[k], given[k])]
