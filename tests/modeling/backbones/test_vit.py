"""Tests of Detectron2's ViT without fairscale, and of its layer decay."""

import importlib.util

import pytest
import torch
from torch.testing import assert_close

from d2_seesaw.modeling.backbones import PlainViT, layer_decay

# Ignore warnings from Detectron2's transformers.
pytestmark = pytest.mark.filterwarnings("ignore:.*timm:FutureWarning")


def vit(**options):
    torch.manual_seed(0)
    return PlainViT(img_size=64, embed_dim=16, depth=2, num_heads=2, drop_path_rate=0.5, **options)


def step(model):
    torch.manual_seed(1)
    output = model(torch.rand(2, 3, 64, 64))["last_feat"]
    output.square().mean().backward()
    return output.detach(), {name: p.grad for name, p in model.named_parameters()}


def test_recomputed_activations_change_neither_outputs_nor_gradients_nor_weights():
    plain, recomputed = vit(), vit(use_act_checkpoint=True)
    assert recomputed.state_dict().keys() == plain.state_dict().keys()
    (output, gradients), (expected, expected_gradients) = step(recomputed), step(plain)
    assert_close(output, expected)
    assert_close(list(gradients.values()), list(expected_gradients.values()))
    decay = layer_decay(rate=0.5, num_layers=2)
    factors = [[decay(f"backbone.{name}") for name in g] for g in (gradients, expected_gradients)]
    assert factors[0] == factors[1]


def test_a_vit_without_timm_is_refused_in_one_line(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "d2_seesaw.modeling.backbones.vit.find_spec", lambda n: None if n == "timm" else find(n)
    )
    with pytest.raises(ImportError, match="Detectron2's ViT needs timm: pip install timm"):
        vit()


@pytest.mark.parametrize(
    ("name", "exponent"),
    [
        ("backbone.net.pos_embed", 13),
        ("backbone.net.patch_embed.proj.weight", 13),
        ("backbone.net.blocks.0.attn.qkv.weight", 12),
        ("backbone.net.blocks.11.mlp.fc1.bias", 1),
        ("backbone.net.body.model.blocks.11.mlp.fc1_g.bias", 1),
        ("backbone.simfp_2.0.weight", 0),
        ("roi_heads.box_head.0.conv1.weight", 0),
    ],
)
def test_learning_rates_decay_by_the_same_factor_from_block_to_block(name, exponent):
    assert layer_decay(rate=0.7, num_layers=12)(name) == pytest.approx(0.7**exponent)


def test_a_layer_decay_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"rate must be in \(0, 1\], got 1.2"):
        layer_decay(rate=1.2, num_layers=12)
