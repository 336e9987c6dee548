"""Every config of semantic segmentation loads, is checked, saves, reloads, builds."""

import copy
from functools import cache
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import MetadataCatalog
from omegaconf import OmegaConf
from torch import nn

from d2_seesaw.data import SemanticDatasetMapper
from d2_seesaw.engine import apply_overrides, load_config
from d2_seesaw.engine.config import target_of
from d2_seesaw.evaluation import LongTailSemSegEvaluator
from d2_seesaw.losses import InverseFrequencyLoss, RecallLoss, SeesawCrossEntropyLoss

CONFIGS = Path("configs")
LEAVES = sorted([*CONFIGS.glob("semantic/*.py"), *CONFIGS.glob("quickstart_semantic_*.py")])
LOSSES = {
    "cross_entropy": nn.CrossEntropyLoss,
    "inverse_frequency": InverseFrequencyLoss,
    "recall": RecallLoss,
    "seesaw": SeesawCrossEntropyLoss,
}

every_config = pytest.mark.parametrize("path", LEAVES, ids=lambda p: p.stem)


@cache
def read(path):
    """The config in a file, to be read alone: others get the same one."""
    return load_config(str(path))


@cache
def model_in(path):
    """The model of the config in a file; likewise."""
    return build_model(read(path))


def build_model(cfg):
    with torch.device("meta"):
        return instantiate(cfg.model)


def loss_named(path):
    """Which of the losses the file's name ends with."""
    return next(name for name in LOSSES if path.stem.endswith(name))


def test_configs_were_found():
    assert len(LEAVES) == 24


@every_config
def test_saves_and_reloads_equal(path, tmp_path):
    cfg = read(path)
    LazyConfig.save(cfg, str(tmp_path / "cfg.yaml"))
    assert [p.name for p in tmp_path.iterdir()] == ["cfg.yaml"]  # no .pkl: all of it is YAML
    again = load_config(str(tmp_path / "cfg.yaml"))
    LazyConfig.save(again, str(tmp_path / "again.yaml"))
    assert (tmp_path / "again.yaml").read_text() == (tmp_path / "cfg.yaml").read_text()
    assert str(build_model(again)) == str(model_in(path))


@every_config
def test_builds_optimizer_schedule_and_mappers(path):
    cfg = apply_overrides(copy.deepcopy(read(path)), ["train.max_iter=2000"])
    cfg.optimizer.params.model = model_in(path)
    optimizer = instantiate(cfg.optimizer)
    assert sum(len(group["params"]) for group in optimizer.param_groups) > 10
    schedule = instantiate(cfg.lr_multiplier)
    assert 0 < schedule(0.0) <= 1
    assert schedule(0.999) <= schedule(0.5) <= 1
    for split in ("train", "test"):
        mapper = instantiate(cfg.dataloader[split].mapper)
        assert isinstance(mapper, SemanticDatasetMapper)
        assert mapper.is_train == (split == "train")


@every_config
def test_the_number_of_classes_and_the_ignored_label_are_written_once(path):
    cfg = copy.deepcopy(read(path))
    overrides = ["model.sem_seg_head.num_classes=7", "model.sem_seg_head.ignore_value=9"]
    head = build_model(apply_overrides(cfg, overrides)).sem_seg_head
    assert head.predictor.out_channels == 7
    assert getattr(head.loss, "num_classes", 7) == 7
    assert head.loss.ignore_index == 9


@every_config
def test_does_what_its_name_says(path):
    cfg = read(path)
    name = loss_named(path)
    assert type(model_in(path).sem_seg_head.loss) is LOSSES[name]
    first = path.with_name(path.name.replace(name, "cross_entropy"))
    plain = copy.deepcopy(read(first))
    plain.model.sem_seg_head.loss = cfg.model.sem_seg_head.loss
    plain.train.output_dir = cfg.train.output_dir
    # Nothing but the loss differs between the rows that are compared.
    assert OmegaConf.to_container(plain, resolve=False) == OmegaConf.to_container(
        cfg, resolve=False
    )
    assert cfg.train.output_dir.endswith(path.stem)


@every_config
def test_classes_are_those_of_the_data(path):
    cfg = read(path)
    for split in ("train", "test"):
        metadata = MetadataCatalog.get(cfg.dataloader[split].dataset.names)
        assert len(metadata.stuff_classes) == cfg.model.sem_seg_head.num_classes
        assert metadata.ignore_label == cfg.model.sem_seg_head.ignore_value
    assert target_of(cfg.dataloader.evaluator) is LongTailSemSegEvaluator
    assert cfg.dataloader.evaluator.dataset_name == cfg.dataloader.test.dataset.names
    assert cfg.dataloader.evaluator.output_dir == f"{cfg.train.output_dir}/inference"


def test_output_folders_differ():
    assert len({read(path).train.output_dir for path in LEAVES}) == len(LEAVES)


PUBLISHED = [
    ("cityscapes_deeplab_r18_recall", 1e-4, 90_000),
    ("synthia_seqs_deeplab_r18_recall", 1e-3, 100_000),
]


@pytest.mark.parametrize(("stem", "rate", "steps"), PUBLISHED)
def test_the_authors_training(stem, rate, steps):
    cfg = read(CONFIGS / f"semantic/{stem}.py")
    assert target_of(cfg.optimizer) is torch.optim.Adam
    assert (cfg.optimizer.lr, cfg.train.max_iter) == (rate, steps)
    assert cfg.dataloader.train.total_batch_size == 6
    schedule = instantiate(cfg.lr_multiplier)
    assert schedule(0.0) == schedule(0.999) == 1
