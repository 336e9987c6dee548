"""The examples of the documentation run as they stand."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.events import EventStorage
from PIL import Image

from d2_seesaw.engine import load_config
from d2_seesaw.evaluation.analysis import write_analysis
from d2_seesaw.losses import SeesawLoss
from tests.data import own_data
from tests.evaluation.analysis.test_more_frequent import FREQUENT, RARE, analysis
from tests.test_yacs import training_step

SEMANTIC = re.findall(r"```python\n(.*?)```", Path("docs/semantic.md").read_text(), re.DOTALL)
OWN_DATA = re.findall(r"```python\n(.*?)```", Path("docs/own_data.md").read_text(), re.DOTALL)
ANALYSIS = re.findall(r"```python\n(.*?)```", Path("docs/evaluation.md").read_text(), re.DOTALL)
TEXT = Path("docs/other_projects.md").read_text()
EXAMPLES = re.findall(r"## (\w+)\n+```python\n(.*?)```", TEXT, re.DOTALL)


def test_one_example_of_each_config_system():
    assert [title for title, _ in EXAMPLES] == ["LazyConfig", "yacs"]
    assert all(len(code.splitlines()) <= 24 for _, code in EXAMPLES)


@pytest.mark.parametrize(("title", "code"), EXAMPLES, ids=[title for title, _ in EXAMPLES])
def test_the_example_builds_and_trains(title, code):
    names = {}
    exec(compile(code, title, "exec"), names)
    loss = names["model"].roi_heads.box_predictor.cls_loss
    assert isinstance(loss, SeesawLoss)
    sum(training_step(names["model"]).values()).backward()
    assert loss.num_classes == 37
    assert loss.class_counts.sum() > 0


def test_the_example_of_dense_losses_runs():
    (code,) = [code for code in SEMANTIC if "randn" in code]
    names = {}
    exec(compile(code, "docs/semantic.md", "exec"), names)
    assert names["logits"].grad.isfinite().all()


def test_the_example_of_own_folders_is_a_config_that_trains(tmp_path, monkeypatch):
    """Registration and config in one file, as the text says, on images and labels drawn here."""
    registration, config = [code for code in SEMANTIC if "my_" in code]
    for split in ("train", "val"):
        for kind, shape in (("images", (64, 96, 3)), ("labels", (64, 96))):
            folder = tmp_path / "data" / kind / split
            folder.mkdir(parents=True)
            values = np.resize(np.array([7, 11, 40, 3], np.uint8), shape)
            Image.fromarray(values).save(folder / "a.png")
    registration = registration.replace("/data/", f"{tmp_path}/data/")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = tmp_path / "my_config.py"
    path.write_text(registration + config)
    try:
        cfg = load_config(str(path), ["dataloader.train.num_workers=0", "train.device=cpu"])
        assert cfg.train.output_dir == "output/mine"
        loader = instantiate(cfg.dataloader.train)
        cfg.model.backbone.stem.norm = "BN"
        model = instantiate(cfg.model)
        batch = [dict(next(iter(loader))[0], image=torch.rand(3, 64, 96)) for _ in range(2)]
        for image in batch:
            image["sem_seg"] = image["sem_seg"][:64, :96]
        assert set(batch[0]["sem_seg"].unique().tolist()) <= {0, 1, 2, 255}
        sum(model(batch).values()).backward()
        instantiate(cfg.dataloader.evaluator)
    finally:
        for split in ("train", "val"):
            DatasetCatalog.remove(f"my_{split}")
            MetadataCatalog.remove(f"my_{split}")


def test_the_example_of_own_data_is_a_config_that_trains(tmp_path, monkeypatch):
    """Registration and config in one file, as the text says, on a data set drawn here."""
    registration, config = OWN_DATA
    for split in ("train", "val"):
        json_file = own_data.write(tmp_path, name=f"{split}.json")
        (tmp_path / "annotations").mkdir(exist_ok=True)
        json_file.rename(tmp_path / "annotations" / json_file.name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "my_config.py"
    path.write_text(registration.replace("/data/", f"{tmp_path}/") + config)
    try:
        cfg = load_config(str(path), ["dataloader.train.num_workers=0", "train.device=cpu"])
        assert cfg.train.output_dir == "output/mine"
        counts = MetadataCatalog.get("my_val").class_image_count
        assert [c["image_count"] for c in counts] == [3, 2, 1]
        cfg.dataloader.train.total_batch_size = 1
        loader = instantiate(cfg.dataloader.train)
        model = instantiate(cfg.model)
        (image,) = next(iter(loader))
        with EventStorage():
            losses = model([image])
        assert losses["loss_cls_classes"].isfinite()
        assert model.roi_heads.box_predictor.cls_loss.num_classes == 3
    finally:
        for name in ("my_train", "my_val"):
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def test_the_example_of_the_long_tail_analysis_prints_what_is_swallowed(
    tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "output/run/inference"
    folder.mkdir(parents=True)
    write_analysis(folder, analysis([(RARE, FREQUENT, 2), (RARE, RARE, 3)], task="segm"))
    monkeypatch.chdir(tmp_path)
    (code,) = [block for block in ANALYSIS if "confusions_with_more_frequent" in block]
    exec(compile(code, "docs/evaluation.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "'right': 3" in printed
    assert "2 of 5 name 1 are taken for name 4" in printed
