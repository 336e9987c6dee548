"""Tests of initial weights from MAE and Swin's authors, in state dicts with their names."""

import pytest
import timm
import torch
import torch.nn.functional as F
from detectron2.modeling import SwinTransformer
from torch import nn
from torch.testing import assert_close

from d2_seesaw.checkpoint import StrictCheckpointer
from d2_seesaw.checkpoint.pretrained import convert_pretrained
from d2_seesaw.modeling.backbones import PlainViT

DIM = 32

# Ignore warnings from Detectron2's transformers.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*meshgrid:UserWarning", "ignore:.*timm:FutureWarning"
)


def vit(**options):
    """Return a detector with a small ViT, and norms that have MAE's width and last name."""
    options = {"embed_dim": DIM, "depth": 2, "num_heads": 2, "window_block_indexes": [0]} | options
    net = PlainViT(img_size=128, window_size=4, use_rel_pos=True, **options)
    neck = nn.ModuleDict({"norm": nn.LayerNorm(DIM)})
    return nn.ModuleDict({"backbone": nn.ModuleDict({"net": net, "neck": neck})})


def mae():
    """Return weights with MAE's names: those of timm's ViT and of a decoder."""
    torch.manual_seed(0)
    options = {"embed_dim": DIM, "depth": 2, "num_heads": 2, "num_classes": 0}
    state = timm.create_model("vit_base_patch16_224", **options).state_dict()
    decoder = {"mask_token": torch.zeros(1, 1, 8), "decoder_embed.weight": torch.zeros(8, DIM)}
    return {key: torch.randn_like(value) for key, value in state.items()} | decoder


def swin():
    depths, heads = [2, 1, 1, 1], [1, 2, 2, 2]
    bottom_up = SwinTransformer(embed_dim=12, depths=depths, num_heads=heads, drop_path_rate=0.0)
    return nn.ModuleDict({"backbone": nn.ModuleDict({"bottom_up": bottom_up})})


def of_swins_authors():
    """Return weights with the names of the published classifiers: norms of maps are missing."""
    torch.manual_seed(1)
    state = swin()["backbone"]["bottom_up"].state_dict()
    norms = tuple(f"norm{k}." for k in range(4))
    state = {key: value for key, value in state.items() if not key.startswith(norms)}
    state["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    state["norm.weight"] = torch.ones(96)
    state["head.weight"] = torch.ones(1000, 96)
    return state


def load(model, state, folder, query=""):
    torch.save({"model": state}, folder / "weights.pth")
    StrictCheckpointer(model).load(f"{folder / 'weights.pth'}{query}")


def test_mae_initializes_exactly_the_vit(tmp_path):
    model, state = vit(), mae()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    load(model, state, tmp_path)
    after = model.state_dict()
    net = "backbone.net."
    changed = {key for key in after if not torch.equal(before[key], after[key])}
    own = {net + key for key in state} & after.keys()
    assert changed == own
    assert {key for key in after if key not in own} == {
        *(f"{net}blocks.{block}.attn.rel_pos_{axis}" for block in (0, 1) for axis in "hw"),
        "backbone.neck.norm.weight",  # has MAE's name and shape, but is not its norm
        "backbone.neck.norm.bias",
    }
    for key in own:
        assert_close(after[key], state[key.removeprefix(net)])


def test_position_embeddings_of_another_image_size_are_resized_as_in_the_forward_pass(tmp_path):
    state = mae()
    model = vit(pretrain_img_size=128)
    load(model, state, tmp_path)
    positions = model["backbone"]["net"].pos_embed
    square = state["pos_embed"][:, 1:].reshape(1, 14, 14, DIM).permute(0, 3, 1, 2)
    expected = F.interpolate(square, size=(8, 8), mode="bicubic").permute(0, 2, 3, 1)
    assert_close(positions[:, 1:].reshape(1, 8, 8, DIM), expected)
    assert_close(positions[:, :1], state["pos_embed"][:, :1])
    # Detectron2 resizes in the forward pass otherwise.
    direct = vit()
    load(direct, state, tmp_path)
    image = torch.rand(1, 3, 128, 128)
    features = [m["backbone"]["net"].eval()(image)["last_feat"] for m in (model, direct)]
    assert_close(*features)


def test_positions_that_are_not_a_square_are_refused():
    state = mae() | {"pos_embed": torch.zeros(1, 12, DIM)}
    with pytest.raises(ValueError, match="pos_embed has 12 positions and the model 197"):
        convert_pretrained(state, vit().state_dict())


def test_swins_weights_initialize_everything_but_the_norms_of_the_maps(tmp_path):
    model, state = swin(), of_swins_authors()
    load(model, state, tmp_path)
    loaded = model["backbone"]["bottom_up"].state_dict()
    new = {key for key in loaded if key not in state}
    assert new == {f"norm{k}.{name}" for k in range(4) for name in ("weight", "bias")}
    for key in loaded.keys() - new:
        assert_close(loaded[key], state[key])


@pytest.mark.parametrize(
    ("state", "model", "missing"),
    [
        (mae, lambda: vit(depth=3), r"another ViT .*blocks\.2\.attn\.qkv\.weight"),
        (mae, swin, "expected one plain ViT in the model"),
        (of_swins_authors, vit, "expected one Swin Transformer of Detectron2 in the model"),
    ],
    ids=["depth", "swin", "vit"],
)
def test_weights_of_another_backbone_are_refused(state, model, missing):
    with pytest.raises(ValueError, match=missing):
        convert_pretrained(state(), model().state_dict())
