"""Fixtures of the fuzz tests."""

from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from tests.data import own_data

ROOT = Path(__file__).parents[2]
CONFIG = """
from d2_seesaw.data import register_longtail_instances
from d2_seesaw.engine import load_config

for name in ("fuzz_train", "fuzz_val"):
    register_longtail_instances(name, json_file="{folder}/train.json", image_root="{folder}/images")
_cfg = load_config("{root}/configs/quickstart/seesaw.py", ["model.roi_heads.num_classes=3"])
dataloader, lr_multiplier, model = _cfg.dataloader, _cfg.lr_multiplier, _cfg.model
optimizer, train, tta = _cfg.optimizer, _cfg.train, _cfg.tta
dataloader.train.dataset.names, dataloader.test.dataset.names = "fuzz_train", "fuzz_val"
train.output_dir = "{folder}/output"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a small dataset, its images, a config of it and a file of no results."""
    folder = tmp_path_factory.mktemp("fuzz")
    own_data.write(folder)
    (folder / "none.json").write_text("[]")
    (folder / "config.py").write_text(CONFIG.format(folder=folder, root=ROOT))
    yield folder
    for name in ("fuzz_train", "fuzz_val"):
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
