"""Tests of configs/common/backbones: full-size models on meta, small ones on an image."""

import copy
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from omegaconf import OmegaConf

from d2_seesaw.engine import apply_overrides, check_config
from d2_seesaw.layers import SyncBatchNorm2d, sync_batch_norm
from d2_seesaw.losses import SeesawLoss
from tests.support.configs import CONFIGS, LEAVES, changed, each, meta_device, model_in, read
from tests.support.training import assert_complete, picture, step_of

# Parts, and millions of parameters of the published models without classifier.
PARTS = {
    "resnest": {
        "resnest_50": 25.4,
        "resnest_101": 46.2,
        "resnest_200": 68.2,
        "resnest_200_dcn": 71.5,
    },
    "swin": {"swin_tiny": 27.5, "swin_small": 48.8, "swin_base": 86.7, "swin_large": 195.0},
    "torchvision": {
        "mobilenet_v2": 2.2,
        "resnet_18": 11.2,
        "efficientnet_v2_s": 20.2,
        "convnext_tiny": 27.8,
        "swin_tiny": 27.5,
    },
    "vit": {"vit_base": 85.8, "vit_large": 303.3},
    "eva": {"eva02_base": 85.8},
}
every_part = pytest.mark.parametrize(
    ("family", "name"), [(family, name) for family, parts in PARTS.items() for name in parts]
)
# One part per family, with overrides that make it small enough for a CPU.
SMALL = {
    ("resnest", "resnest_200_dcn"): ["model.backbone.bottom_up.name=resnest14d"],
    ("swin", "swin_tiny"): [
        "model.backbone.bottom_up.embed_dim=12",
        "model.backbone.bottom_up.depths=[2,1,1,1]",
        "model.backbone.bottom_up.num_heads=[1,2,2,2]",
    ],
    ("eva", "eva02_base"): [
        "model.backbone.net.model_options={img_size:128,patch_size:16,embed_dim:48,depth:3,num_heads:2}",
        "model.backbone.square_pad=128",
        "model.backbone.net.checkpoint=True",
    ],
    ("vit", "vit_base"): [
        "model.backbone.net.embed_dim=32",
        "model.backbone.net.depth=2",
        "model.backbone.net.num_heads=2",
        "model.backbone.net.window_block_indexes=[0]",
        "model.backbone.square_pad=128",
    ],
}
HEADS = [
    "model.roi_heads.num_classes=7",
    "model.roi_heads.batch_size_per_image=16",
    "model.roi_heads.box_predictor.test_topk_per_image=4",
    "model.proposal_generator.post_nms_topk=[20,10]",
]


def with_part(family, name, overrides=()):
    """Return the config of a Mask R-CNN with a part in the place that its file describes."""
    part = LazyConfig.load(f"configs/common/backbones/{family}.py")[name]
    cfg = LazyConfig.load("configs/common/models/mask_rcnn_r50_fpn.py")
    if family in ("resnest", "torchvision"):
        cfg.model.backbone.bottom_up = copy.deepcopy(part)
    elif family == "swin":
        cfg.model.backbone.update(copy.deepcopy(part))
    elif family == "eva":
        cfg.model.update(copy.deepcopy(part))
    else:
        cfg.model.backbone = copy.deepcopy(part)
    return apply_overrides(cfg, list(overrides))


@pytest.mark.slow
@every_part
def test_part_saves_and_builds_at_its_published_size(family, name, tmp_path):
    cfg = with_part(family, name)
    check_config(OmegaConf.create({"model": cfg.model}, flags={"allow_objects": True}))
    LazyConfig.save(cfg, str(tmp_path / "cfg.yaml"))
    assert [p.name for p in tmp_path.iterdir()] == [
        "cfg.yaml"
    ]  # no .pkl: it was saved as plain YAML
    cfg = LazyConfig.load(str(tmp_path / "cfg.yaml"))
    with meta_device():
        backbone = instantiate(cfg.model.backbone)
    trunk = backbone.bottom_up if hasattr(backbone, "bottom_up") else backbone.net
    # EVA-02's positions are not those of the published image size.
    counted = [p for name, p in trunk.named_parameters() if "pos_embed" not in name]
    count = sum(p.numel() for p in counted) / 1e6
    assert count == pytest.approx(PARTS[family][name], rel=0.01)
    strides = {name: shape.stride for name, shape in backbone.output_shape().items()}
    assert strides == {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}


def test_a_norm_in_the_heads_saves_and_builds(tmp_path):
    cfg = LazyConfig.load("configs/common/models/mask_rcnn_r50_fpn.py")
    cfg.model.roi_heads.mask_head.conv_norm = L(sync_batch_norm)(eps=1e-3)
    cfg.model.roi_heads.box_head.update(conv_dims=[8], conv_norm=L(sync_batch_norm)(eps=1e-3))
    check_config(OmegaConf.create({"model": cfg.model}, flags={"allow_objects": True}))
    LazyConfig.save(cfg, str(tmp_path / "cfg.yaml"))
    assert [p.name for p in tmp_path.iterdir()] == ["cfg.yaml"]
    cfg = LazyConfig.load(str(tmp_path / "cfg.yaml"))
    with meta_device():
        heads = instantiate(cfg.model).roi_heads
    for norm in (heads.mask_head.mask_fcn4.norm, heads.box_head.conv1.norm):
        assert isinstance(norm, SyncBatchNorm2d)
        assert norm.eps == 1e-3


def test_every_part_is_tested():
    files = {path.stem: path for path in Path("configs/common/backbones").glob("*.py")}
    assert files.keys() == PARTS.keys()
    for family, path in files.items():
        assert {str(k) for k in LazyConfig.load(str(path))} == PARTS[family].keys()


# Ignore warnings from Detectron2's transformers.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*meshgrid:UserWarning", "ignore:.*timm:FutureWarning"
)


@pytest.fixture(scope="module", params=SMALL, ids=[name for _, name in SMALL])
def model(request):
    torch.manual_seed(0)
    return instantiate(with_part(*request.param, [*SMALL[request.param], *HEADS]).model)


def image():
    return picture(2, size=(96, 128), num_classes=7)


@pytest.mark.slow
def test_trains_every_parameter_that_is_not_frozen(model):
    assert_complete(model, step_of(model, [2, 2], size=(96, 128), num_classes=7))


@torch.no_grad()
def test_maps_of_a_padded_image_have_their_strides(model):
    images = model.preprocess_image([image()])
    height, width = images.tensor.shape[2:]
    square = model.backbone.padding_constraints["square_size"] > 0
    assert (height, width) == ((128, 128) if square else (96, 128))
    features = model.eval().backbone(images.tensor)
    for name, stride in {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}.items():
        assert features[name].shape == (1, 256, -(-height // stride), -(-width // stride))


@torch.no_grad()
def test_inference_runs_on_an_image(model):
    (found,) = model.eval()([image() | {"height": 48, "width": 64}])
    assert found["instances"].image_size == (48, 64)
    assert len(found["instances"]) == 4
    assert found["instances"].pred_masks.shape == (4, 48, 64)


# --- whole configs ---

BACKBONES = [p for p in LEAVES if p.parent.name == "backbones"]


@each(BACKBONES)
def test_config_trains_seesaw_heads_at_lvis_size(path):
    heads = model_in(path).roi_heads
    assert isinstance(heads.box_predictor.cls_loss, SeesawLoss)
    assert heads.num_classes == 1203
    cfg = changed(path)
    cfg.tta.model = model_in(path)
    instantiate(cfg.tta)


def test_swins_position_bias_tables_have_no_weight_decay():
    path = CONFIGS / "backbones/swin_tiny_mask_rcnn_seesaw_rfs.py"
    cfg, model = changed(path), model_in(path)
    cfg.optimizer.params.model = model
    tables = {p for n, p in model.named_parameters() if "relative_position_bias_table" in n}
    groups = instantiate(cfg.optimizer).param_groups
    decay = {p: group["weight_decay"] for group in groups for p in group["params"]}
    assert tables
    assert {decay[p] for p in tables} == {0.0}


def test_vits_images_fit_its_square_input():
    cfg = read(CONFIGS / "backbones/vit_base_mask_rcnn_seesaw_rfs.py")
    square = cfg.model.backbone.square_pad
    (resize,) = cfg.dataloader.test.mapper.augmentations
    assert resize.max_size == square
    assert all(limit <= square for _, limit in cfg.tta.scales)
    assert tuple(cfg.dataloader.train.mapper.augmentations[1].crop_size) == (square, square)
