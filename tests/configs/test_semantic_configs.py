"""Tests that semantic segmentation configs differ only as their file names say."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from detectron2.projects.deeplab.loss import DeepLabCE
from torch import nn

from d2_seesaw.data import OpenCVResize, SemanticDatasetMapper
from d2_seesaw.engine.config import target_of
from d2_seesaw.evaluation import LongTailSemSegEvaluator
from d2_seesaw.losses import (
    DiceLoss,
    FocalLoss,
    InverseFrequencyLoss,
    LovaszLoss,
    RecallLoss,
    SeesawCrossEntropyLoss,
)
from d2_seesaw.modeling import CornerAlignedDeepLabV3PlusHead
from tests.support.configs import CONFIGS, LEAVES, changed, each, meta_device, model_in, plain, read

SEMANTIC = [p for p in LEAVES if p.parent.name == "semantic" or p.stem.startswith("semantic")]
LOSSES = {
    "cross_entropy": nn.CrossEntropyLoss,
    "dice": DiceLoss,
    "focal": FocalLoss,
    "inverse_frequency": InverseFrequencyLoss,
    "lovasz": LovaszLoss,
    "ohem": DeepLabCE,
    "recall": RecallLoss,
    "seesaw": SeesawCrossEntropyLoss,
}

every_config = each(SEMANTIC)


def loss_name(path):
    """Return the loss named at the end of the file name."""
    return next(name for name in LOSSES if path.stem.endswith(name))


def test_configs_were_found():
    assert len(SEMANTIC) == 36


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
    with meta_device():
        head = instantiate(cfg.model.sem_seg_head)
    assert head.predictor.out_channels == 7
    assert getattr(head.loss, "num_classes", 7) == 7
    ignored = "ignore_label" if isinstance(head.loss, DeepLabCE) else "ignore_index"
    assert getattr(head.loss, ignored) == 9


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


# Numbers in the configs and loaders of https://github.com/PotatoTian/recall-semseg.
AUTHORS = [
    ("authors_cityscapes", 1e-4, 90_000, 19),
    ("authors_synthia_seqs", 1e-3, 100_000, 16),
]


@pytest.mark.parametrize("loss", ["cross_entropy", "recall"])
@pytest.mark.parametrize(("stem", "rate", "steps", "classes"), AUTHORS)
def test_training_follows_the_authors(stem, rate, steps, classes, loss):
    cfg = read(CONFIGS / f"semantic/{stem}_{loss}.py")
    assert target_of(cfg.optimizer) is torch.optim.Adam
    assert (cfg.optimizer.lr, cfg.train.max_iter, cfg.train.eval_period) == (rate, steps, 5000)
    assert (cfg.optimizer.get("weight_decay", 0), cfg.train.clip_grad.max_norm) == (0, None)
    assert cfg.dataloader.train.total_batch_size == 6
    assert cfg.train.best_checkpoint == {"metric": "sem_seg/mIoU", "mode": "max"}
    assert target_of(cfg.model.sem_seg_head) is CornerAlignedDeepLabV3PlusHead
    assert cfg.model.sem_seg_head.num_classes == classes
    schedule = instantiate(cfg.lr_multiplier)
    assert schedule(0.0) == schedule(1.0) == 1
    if loss == "recall":
        built = instantiate(cfg.model.sem_seg_head.loss)
        assert (built.reduction, built.sync, built.momentum) == ("ref", True, 0)


def test_synthia_is_not_augmented_and_read_as_the_authors_do():
    cfg = read(CONFIGS / "semantic/authors_synthia_seqs_recall.py")
    for part in (cfg.dataloader.train, cfg.dataloader.test):
        (resize,) = part.mapper.augmentations
        assert (target_of(resize), list(resize.shape)) == (OpenCVResize, [384, 768])
        assert part.mapper.image_format == "BGR"
    assert list(cfg.model.pixel_mean) == [55.09944, 62.203827, 71.23802]
    assert list(cfg.model.pixel_std) == [49.56111, 51.497387, 55.363934]
