"""Tests that semantic segmentation configs differ only as their file names say."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from torch import nn

from d2_seesaw.data import SemanticDatasetMapper
from d2_seesaw.engine.config import target_of
from d2_seesaw.evaluation import LongTailSemSegEvaluator
from d2_seesaw.losses import InverseFrequencyLoss, RecallLoss, SeesawCrossEntropyLoss
from tests.support.configs import CONFIGS, LEAVES, changed, each, model_in, plain, read

SEMANTIC = [p for p in LEAVES if p.parent.name == "semantic" or p.stem.startswith("semantic")]
LOSSES = {
    "cross_entropy": nn.CrossEntropyLoss,
    "inverse_frequency": InverseFrequencyLoss,
    "recall": RecallLoss,
    "seesaw": SeesawCrossEntropyLoss,
}

every_config = each(SEMANTIC)


def loss_name(path):
    """Return the loss named at the end of the file name."""
    return next(name for name in LOSSES if path.stem.endswith(name))


def test_configs_were_found():
    assert len(SEMANTIC) == 24


@every_config
def test_builds_mappers(path):
    for split in ("train", "test"):
        mapper = instantiate(read(path).dataloader[split].mapper)
        assert isinstance(mapper, SemanticDatasetMapper)
        assert mapper.is_train == (split == "train")


@every_config
def test_number_of_classes_and_ignored_label_are_set_in_one_place(path):
    head = "model.sem_seg_head"
    cfg = changed(path, f"{head}.num_classes=7", f"{head}.ignore_value=9")
    with torch.device("meta"):
        head = instantiate(cfg.model.sem_seg_head)
    assert head.predictor.out_channels == 7
    assert getattr(head.loss, "num_classes", 7) == 7
    assert head.loss.ignore_index == 9


@every_config
def test_settings_match_the_file_name(path):
    cfg = read(path)
    name = loss_name(path)
    assert type(model_in(path).sem_seg_head.loss) is LOSSES[name]
    reference = path.with_name(path.name.replace(name, "cross_entropy"))
    expected = changed(reference)
    expected.model.sem_seg_head.loss = cfg.model.sem_seg_head.loss
    expected.train.output_dir = cfg.train.output_dir
    # Only the loss and the output folder may differ.
    assert plain(expected) == plain(cfg)


@every_config
def test_classes_match_the_data(path):
    cfg = read(path)
    for split in ("train", "test"):
        metadata = MetadataCatalog.get(cfg.dataloader[split].dataset.names)
        assert len(metadata.stuff_classes) == cfg.model.sem_seg_head.num_classes
        assert metadata.ignore_label == cfg.model.sem_seg_head.ignore_value
    assert target_of(cfg.dataloader.evaluator) is LongTailSemSegEvaluator


PUBLISHED = [
    ("cityscapes_deeplab_r18_recall", 1e-4, 90_000),
    ("synthia_seqs_deeplab_r18_recall", 1e-3, 100_000),
]


@pytest.mark.parametrize(("stem", "rate", "steps"), PUBLISHED)
def test_training_follows_the_authors(stem, rate, steps):
    cfg = read(CONFIGS / f"semantic/{stem}.py")
    assert target_of(cfg.optimizer) is torch.optim.Adam
    assert (cfg.optimizer.lr, cfg.train.max_iter) == (rate, steps)
    assert cfg.dataloader.train.total_batch_size == 6
    schedule = instantiate(cfg.lr_multiplier)
    assert schedule(0.0) == schedule(0.999) == 1
