"""Fixtures: a training on a few images of one's own, by the command, and pages without charts."""

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2_seesaw.cli import train
from d2_seesaw.data import register_longtail_instances
from tests.data.own_data import content, write


@pytest.fixture(autouse=True)
def _pages_without_charts(no_charts):
    """Leave the charts out of the report that every evaluation writes."""


@pytest.fixture
def own(tmp_path):
    """Register data as ``own``; return a function that starts training on changed data."""
    names = []

    def start(*arguments, change=lambda data: None, after=lambda folder: None):
        data = content()
        change(data)
        name = f"own_{tmp_path.name}_{len(names)}"
        json_file = write(tmp_path, data, f"{name}.json")
        after(tmp_path)
        register_longtail_instances(name, None, json_file, tmp_path / "images")
        names.append(name)
        cfg = ["--config-file", "quickstart/seesaw", f"train.output_dir={tmp_path}/run"]
        small = ["dataloader.train.total_batch_size=2", "train.max_iter=1", "train.device=cpu"]
        data = [f"dataloader.{s}.dataset.names={name}" for s in ("train", "test")]
        workers = [f"dataloader.{s}.num_workers=0" for s in ("train", "test")]
        classes = ["model.roi_heads.num_classes=3"]
        flags = [a for a in arguments if a.startswith("--")]
        options = [a for a in arguments if not a.startswith("--")]
        return train.main([*flags, *cfg, *small, *data, *workers, *classes, *options])

    yield start
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
