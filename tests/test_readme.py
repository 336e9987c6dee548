"""The README's code runs, and its files exist."""

import re
from pathlib import Path

import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from d2_seesaw.engine import load_config
from d2_seesaw.losses import SeesawLoss

CONFIGS = Path("configs").resolve()
README = Path("README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def run_block(with_text, **names):
    (code,) = [block for block in BLOCKS if with_text in block]
    exec(compile(code, "README.md", "exec"), names)
    return names


def test_code_blocks_were_found():
    assert len(BLOCKS) == 4


def test_the_loss_example_runs():
    logits, labels = torch.randn(6, 1205), torch.tensor([0, 5, 1202, 1203, 1203, 1203])
    names = run_block("scores = loss.scores", logits=logits, labels=labels)
    assert set(names["losses"]) == {"loss_cls_classes", "loss_cls_objectness"}
    assert names["scores"].shape == (6, 1204)


def test_the_registration_example_runs():
    run_block("register_lvis_format")
    try:
        assert MetadataCatalog.get("my_train").evaluator_type == "lvis"
    finally:
        DatasetCatalog.remove("my_train")
        MetadataCatalog.remove("my_train")


def test_the_example_for_another_project_builds():
    with torch.device("meta"):
        model = instantiate(run_block("model_zoo")["model"])
    assert isinstance(model.roi_heads.box_predictor.cls_loss, SeesawLoss)


def test_the_example_of_test_time_augmentation_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 30)).save("image.jpg")
    cfg = load_config(str(CONFIGS / "quickstart/seesaw.py"))
    names = run_block("MultiViewInference", model=instantiate(cfg.model))
    assert names["instances"].image_size == (30, 40)


def test_files_that_are_named_exist():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert len(links) > 15
    missing = [link for link in links if not Path(link).exists()]
    assert missing == []
