"""Each pixel loss and the network of Recall Loss's authors learn the generated street scenes."""

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2_seesaw.data import load_dataset, register_semantic_folder
from d2_seesaw.data.quickstart import CLASSES
from d2_seesaw.synthetic.street import SemanticSpec, generate_semantic_dataset
from tests.support.configs import CONFIGS, LEAVES, changed

NAME = "tests_semantic_training"
QUICKSTARTS = [path for path in LEAVES if path.stem.startswith("semantic_")]
AUTHORS = [
    CONFIGS / f"semantic/authors_{data}_{loss}.py"
    for data in ("cityscapes", "synthia_seqs")
    for loss in ("recall", "cross_entropy")
]
STEPS, STEPS_OF_THE_LARGE_NETWORK = 24, 12

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    spec = SemanticSpec(num_train_images=8, num_val_images=1, image_size=(64, 96))
    generate_semantic_dataset(root, spec, progress=False)
    register_semantic_folder(
        NAME, root / "images/train", root / "labels/train", classes=list(CLASSES)
    )
    yield load_dataset(NAME)
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


@pytest.mark.parametrize("path", [*QUICKSTARTS, *AUTHORS], ids=lambda path: path.stem)
def test_the_loss_falls(path, scenes):
    torch.manual_seed(0)
    np.random.seed(0)
    cfg = changed(path, "model.sem_seg_head.num_classes=12")
    if path in AUTHORS:
        # As in its own data, but smaller.
        for augmentation in cfg.dataloader.train.mapper.augmentations:
            if "shape" in augmentation:
                augmentation.shape = [48, 72]
            if "crop_size" in augmentation:
                augmentation.crop_size = [65, 65]
            if "short_edge_length" in augmentation:
                augmentation.short_edge_length = [48, 64, 96]
    model = instantiate(cfg.model).train()
    mapper = instantiate(cfg.dataloader.train.mapper)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    losses = []
    for step in range(STEPS_OF_THE_LARGE_NETWORK if path in AUTHORS else STEPS):
        batch = [mapper(scenes[(4 * step + i) % len(scenes)]) for i in range(4)]
        (loss,) = model(batch).values()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all()
    assert np.mean(losses[-4:]) < 0.9 * np.mean(losses[:4]), losses
