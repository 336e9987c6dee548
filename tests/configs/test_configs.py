"""Every file in configs/ that describes a training loads, is checked, saves, reloads, builds."""

from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from omegaconf import OmegaConf

from d2_seesaw.data import RandomSampling, RepeatFactorSampling
from d2_seesaw.engine import load_config
from d2_seesaw.inference import MultiViewInference, UnionOfDetections
from d2_seesaw.layers import NormedConv2d, NormedLinear
from d2_seesaw.losses import SeesawLoss, SoftmaxLoss

CONFIGS = Path("configs")
LEAVES = sorted(p for p in CONFIGS.rglob("*.py") if "common" not in p.relative_to(CONFIGS).parts)
LVIS = [p for p in LEAVES if p.parent.name == "lvis_v1"]

every_config = pytest.mark.parametrize("path", LEAVES, ids=lambda p: str(p.relative_to(CONFIGS)))
every_lvis_config = pytest.mark.parametrize("path", LVIS, ids=lambda p: p.stem)


def build_model(cfg):
    with torch.device("meta"):
        return instantiate(cfg.model)


def test_configs_were_found():
    assert len(LVIS) == 16
    assert len(LEAVES) == 19


@every_config
def test_saves_and_reloads_equal(path, tmp_path):
    cfg = load_config(str(path))
    LazyConfig.save(cfg, str(tmp_path / "cfg.yaml"))
    assert [p.name for p in tmp_path.iterdir()] == ["cfg.yaml"]  # no .pkl: all of it is YAML
    again = load_config(str(tmp_path / "cfg.yaml"))
    LazyConfig.save(again, str(tmp_path / "again.yaml"))
    assert (tmp_path / "again.yaml").read_text() == (tmp_path / "cfg.yaml").read_text()
    model, expected = build_model(again), build_model(cfg)
    assert str(model) == str(expected)


@every_config
def test_builds_model_optimizer_and_schedule(path):
    cfg = load_config(str(path), ["train.max_iter=1000"])
    cfg.optimizer.params.model = build_model(cfg)
    optimizer = instantiate(cfg.optimizer)
    assert sum(len(group["params"]) for group in optimizer.param_groups) > 50
    schedule = instantiate(cfg.lr_multiplier)
    assert schedule(0.0) < schedule(0.5)
    assert schedule(0.999) < schedule(0.5)


@every_config
def test_the_number_of_classes_is_written_once(path):
    cfg = load_config(str(path), ["model.roi_heads.num_classes=7"])
    heads = build_model(cfg).roi_heads
    assert heads.num_classes == 7
    assert heads.box_predictor.num_classes == heads.box_predictor.cls_loss.num_classes == 7
    assert heads.box_predictor.cls_score.out_features == heads.box_predictor.cls_loss.num_logits
    assert heads.box_predictor.bbox_pred.out_features == 4 * 7
    assert heads.mask_head.predictor.out_channels == 7


@every_config
def test_lengths_and_places_are_given(path):
    cfg = load_config(str(path))
    assert (cfg.train.epochs is None) != (cfg.train.max_iter is None)
    assert cfg.dataloader.evaluator.output_dir == f"{cfg.train.output_dir}/inference"
    assert cfg.dataloader.evaluator.dataset_name == cfg.dataloader.test.dataset.names


@every_config
def test_has_views_for_test_time_augmentation_among_them_the_test_size(path):
    cfg = load_config(str(path))
    cfg.tta.model = model = build_model(cfg)
    tta = instantiate(cfg.tta)
    assert isinstance(tta, MultiViewInference)
    assert tta.model is model
    assert isinstance(tta.merge, UnionOfDetections)
    assert tta.flip
    assert ((144, 144) if "quickstart" in path.stem else (800, 1333)) in tta.scales


def test_every_published_view_is_a_multiple_of_the_test_size():
    scales = load_config("configs/lvis_v1_seesaw.py").tta.scales
    assert [short for short, _ in scales] == list(range(400, 1300, 100))
    assert all(abs(limit - short * 1333 / 800) <= 0.5 for short, limit in scales)


def test_the_challenges_views_are_a_part():
    challenge = LazyConfig.load("configs/common/tta.py").challenge
    assert challenge.scales == [[long, long] for long in (1200, 1400, 1600, 1800, 2000)]
    assert challenge.flip


def test_output_folders_differ():
    folders = [load_config(str(path)).train.output_dir for path in LEAVES]
    assert len(set(folders)) == len(folders)


@every_lvis_config
def test_does_what_its_name_says(path):
    cfg = load_config(str(path))
    words = path.stem.split("_")
    predictor = build_model(cfg).roi_heads.box_predictor
    mask_predictor = build_model(cfg).roi_heads.mask_head.predictor
    is_seesaw = "seesaw" in words
    assert isinstance(predictor.cls_loss, SeesawLoss if is_seesaw else SoftmaxLoss)
    assert isinstance(predictor.cls_score, NormedLinear) == is_seesaw
    assert isinstance(mask_predictor, NormedConv2d) == ("norm" in words)
    assert cfg.model.backbone.bottom_up.stages.depth == (101 if "r101" in words else 50)
    assert f"ResNet{cfg.model.backbone.bottom_up.stages.depth}_" in cfg.train.init_checkpoint
    sampling = instantiate(cfg.dataloader.train.sampling)
    assert isinstance(sampling, RepeatFactorSampling if "rfs" in words else RandomSampling)


@pytest.mark.parametrize("path", [p for p in LVIS if "random" in p.stem], ids=lambda p: p.stem)
def test_random_configs_hold_no_repeat_factor_sampling_anywhere(path, tmp_path):
    LazyConfig.save(load_config(str(path)), str(tmp_path / "cfg.yaml"))
    assert "Repeat" not in (tmp_path / "cfg.yaml").read_text()


@every_lvis_config
def test_follows_the_published_recipe(path):
    cfg = load_config(str(path), ["train.max_iter=24000"])
    assert (cfg.optimizer.lr, cfg.optimizer.momentum, cfg.optimizer.weight_decay) == (
        0.02,
        0.9,
        1e-4,
    )
    assert cfg.dataloader.train.total_batch_size == 16
    schedule = instantiate(cfg.lr_multiplier)
    epoch = 1 / 24
    values = [schedule(e * epoch) for e in (1, 15.99, 16, 21.99, 22)]
    assert values == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    assert schedule(0) == pytest.approx(1e-3)
    assert schedule(499 / 24000) < 1
    assert schedule(500 / 24000) == pytest.approx(1)
    heads = cfg.model.roi_heads
    assert (heads.batch_size_per_image, heads.positive_fraction) == (512, 0.25)
    assert heads.box_predictor.test_score_thresh == 1e-4
    assert heads.box_predictor.test_topk_per_image == 300
    assert heads.box_predictor.test_nms_thresh == 0.5
    assert cfg.model.input_format == "RGB"
    assert cfg.model.pixel_mean == [123.675, 116.28, 103.53]
    assert cfg.model.pixel_std == [58.395, 57.12, 57.375]
    assert not cfg.model.backbone.bottom_up.stages.stride_in_1x1
    resize, flip = instantiate(cfg.dataloader.train.mapper.augmentations)
    assert list(resize.short_edge_length) == [640, 672, 704, 736, 768, 800]
    assert (resize.max_size, resize.is_range) == (1333, False)
    assert flip.horizontal
    (test_resize,) = instantiate(cfg.dataloader.test.mapper.augmentations)
    assert (list(test_resize.short_edge_length), test_resize.max_size) == ([800, 800], 1333)


def test_the_flagship_is_seesaw_with_normalised_masks_and_repeat_factors():
    flagship = load_config("configs/lvis_v1_seesaw.py")
    row = load_config("configs/lvis_v1/mask_rcnn_r50_fpn_seesaw_norm_mask_rfs_2x.py")
    row.train.output_dir = flagship.train.output_dir
    assert OmegaConf.to_container(row, resolve=False) == OmegaConf.to_container(
        flagship, resolve=False
    )


def test_the_flagship_has_lvis_v1s_classes_and_published_numbers_of_logits():
    heads = build_model(load_config("configs/lvis_v1_seesaw.py")).roi_heads
    assert heads.box_predictor.cls_score.out_features == 1205
    assert heads.box_predictor.cls_loss.class_counts.shape == (1204,)
    assert heads.box_predictor.bbox_pred.out_features == 4812
