"""Tests of small versions of configs/common/models: construction, training and evaluation."""

import pytest
import torch
import torchvision
from detectron2.config import LazyConfig, instantiate
from detectron2.evaluation import inference_on_dataset
from omegaconf import OmegaConf
from torch import nn

from d2_seesaw.checkpoint import convert_torchvision_resnet
from d2_seesaw.engine import check_config
from d2_seesaw.evaluation import LongTailSemSegEvaluator
from tests.evaluation import sem_seg_data
from tests.support.configs import meta_device

PARTS = ["semantic_fpn_r50", "deeplab_v3_plus_r18", "deeplab_v3_plus_r50", "deeplab_v3_plus_recall"]
IMAGENET = {"semantic_fpn_r50": 50, "deeplab_v3_plus_r18": 18, "deeplab_v3_plus_r50": 50}

every_part = pytest.mark.parametrize("part", PARTS)


def config_of(part):
    return LazyConfig.load(f"configs/common/models/{part}.py")


def small(part, num_classes=sem_seg_data.C):
    """Reduce the channels of everything but the backbone, which must fit ImageNet weights."""
    model = config_of(part).model
    head = model.sem_seg_head
    head.num_classes = num_classes
    if part.startswith("semantic_fpn"):
        model.backbone.out_channels = 16
        head.conv_dims = 32
    else:
        head.update(project_channels=[8], decoder_channels=[16, 16], aspp_dilations=[1, 2, 3])
        head.aspp_dropout = 0.0
    return model


def batch(height=64, width=96):
    return [
        {
            "image": torch.randint(256, (3, height - 3 * i, width), dtype=torch.uint8),
            "sem_seg": torch.randint(sem_seg_data.C, (height - 3 * i, width)),
        }
        for i in range(2)
    ]


@every_part
def test_a_training_step_gives_every_parameter_a_gradient(part):
    model = instantiate(small(part)).train()
    losses = model(batch())
    assert list(losses) == ["loss_sem_seg"]
    losses["loss_sem_seg"].backward()
    assert losses["loss_sem_seg"].isfinite()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert any(name.startswith("backbone") for name in trained)
    lacking = [n for n, p in trained.items() if p.grad is None or not p.grad.abs().sum() > 0]
    assert lacking == []
    assert all(p.grad.isfinite().all() for p in trained.values())


@every_part
def test_evaluates_images_of_any_size(part, tmp_path):
    data = sem_seg_data.pictures(3)
    name = f"sem_seg_model_test_{part}"
    sem_seg_data.register(tmp_path, name, data)
    model = instantiate(small(part))
    loader = [
        [
            {
                "file_name": p.name,
                "image": torch.randint(256, (3, 41, 77), dtype=torch.uint8),
                "height": p.labels.shape[0],
                "width": p.labels.shape[1],
            }
        ]
        for p in data
    ]
    try:
        results = inference_on_dataset(model, loader, LongTailSemSegEvaluator(name))
    finally:
        sem_seg_data.unregister(name)
    assert 0 <= results["sem_seg"]["mIoU"] <= 100


@every_part
def test_has_no_unknown_key_and_saves_as_yaml(part, tmp_path):
    cfg = config_of(part)
    check_config(cfg)
    LazyConfig.save(cfg, str(tmp_path / "cfg.yaml"))
    assert [p.name for p in tmp_path.iterdir()] == ["cfg.yaml"]
    again = LazyConfig.load(str(tmp_path / "cfg.yaml"))
    with meta_device():
        assert str(instantiate(again.model)) == str(instantiate(cfg.model))


@every_part
def test_number_of_classes_and_ignored_label_are_set_in_one_place(part):
    cfg = OmegaConf.create({"model": small(part, 7)}, flags={"allow_objects": True})
    cfg.model.sem_seg_head.ignore_value = 200
    with meta_device():
        head = instantiate(cfg.model).sem_seg_head
    assert head.predictor.out_channels == 7
    assert head.ignore_value == head.loss.ignore_index == 200


@every_part
def test_the_heads_input_shapes_are_the_backbones(part):
    cfg = config_of(part)
    with meta_device():
        model = instantiate(cfg.model)
    shapes = model.backbone.output_shape()
    assert model.sem_seg_head.in_features == [n for n in shapes if n != "p6"]
    for name, shape in instantiate(cfg.model.sem_seg_head.input_shape).items():
        assert (shape.channels, shape.stride) == (shapes[name].channels, shapes[name].stride)


@pytest.mark.parametrize("part", IMAGENET)
def test_torchvisions_imagenet_weights_fit(part):
    with meta_device():
        model = instantiate(config_of(part).model)
        source = getattr(torchvision.models, f"resnet{IMAGENET[part]}")()
        state = convert_torchvision_resnet(source.state_dict(), model.state_dict())
    own = model.state_dict()
    assert {k: v.shape for k, v in state.items()} == {k: own[k].shape for k in state}


@pytest.mark.parametrize("part", PARTS[1:])
def test_one_key_sets_all_norms_of_deeplab(part):
    model = small(part)
    model.backbone.stem.norm = "GN"
    model.sem_seg_head.update(project_channels=[32], decoder_channels=[32, 32])
    with meta_device():
        kinds = {type(m) for m in instantiate(model).modules() if "Norm" in type(m).__name__}
    assert kinds == {nn.GroupNorm}
