"""Tests of every training config in configs/."""

import ast
import re
from collections import Counter

import pytest
from detectron2.config import instantiate
from fvcore.common.param_scheduler import (
    CosineParamScheduler,
    LinearParamScheduler,
)

from d2_seesaw.engine import load_config
from tests.support.configs import CONFIGS, LEAVES, changed, each, model_in, plain, read, reloaded
from tests.support.shipped_configs import executed_again

# Ignore warnings from Detectron2's transformers.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*meshgrid:UserWarning", "ignore:.*timm:FutureWarning"
)


def test_configs_were_found():
    folders = Counter(str(path.relative_to(CONFIGS).parent) for path in LEAVES)
    assert folders == {
        ".": 2,
        "backbones": 7,
        "challenge": 12,
        "classification": 9,
        "coco": 3,
        "fine_tuning": 1,
        "lvis_v1": 20,
        "lvis_v1/decoupled": 6,
        "lvis_v1/losses": 9,
        "mmdet": 8,
        "own_data": 3,
        "quickstart": 23,
        "quickstart/losses": 9,
        "semantic": 28,
        "vitdet": 8,
    }


@each(LEAVES)
def test_a_saved_config_reloads_equal(path):
    assert plain(reloaded(path)) == plain(read(path))


@pytest.mark.parametrize("name", ["lvis_v1_seesaw", "quickstart/challenge"])
def test_loading_twice_gives_equal_configs(name):
    path = CONFIGS / f"{name}.py"
    with executed_again():
        assert plain(load_config(str(path.absolute()))) == plain(read(path))


@each(LEAVES)
def test_builds_model_optimizer_and_schedule(path):
    cfg = changed(path, "train.max_iter=40000", "optimizer.fused=True")
    cfg.optimizer.params.model = model = model_in(path)
    groups = instantiate(cfg.optimizer).param_groups
    assert all(group["fused"] for group in groups)
    trained = sum(len(group["params"]) for group in groups)
    # A second phase may train one classifier, or one vector of scales.
    fewest = 1 if "init" in cfg.model else 11
    assert trained == sum(p.requires_grad for p in model.parameters()) >= fewest
    schedule = instantiate(cfg.lr_multiplier)
    assert schedule(1.0) <= 1  # as after the last step
    if isinstance(schedule, LinearParamScheduler):
        assert schedule(0.0) == schedule(0.999) == 1
    elif isinstance(schedule, CosineParamScheduler):
        assert 1 == schedule(0.0) > schedule(0.5) > schedule(0.999)
        return
    else:
        assert 0 < schedule(0.0) < schedule(0.5) <= 1
        assert schedule(0.999) < schedule(0.5)


@each(LEAVES)
def test_schedule_length_and_output_folders_are_set(path):
    cfg = read(path)
    assert (cfg.train.epochs is None) != (cfg.train.max_iter is None)
    folder = f"output/{path.relative_to(CONFIGS).with_suffix('')}"
    assert cfg.train.output_dir == folder
    assert cfg.dataloader.evaluator.output_dir == f"{folder}/inference"
    assert cfg.dataloader.evaluator.dataset_name == cfg.dataloader.test.dataset.names


NUMBERS = (
    r"Paper, table \d+: (mask AP|accuracy) \d",
    r"Kang et al\., README of their code: accuracy \d",
    r"Paper \(abstract\): \d",
    r"mmdet's model zoo: mask AP \d",
    r"The authors' repository: mask AP \d",
    r"Detectron2's model zoo: mask AP \d",
    r"slides of the LVIS 2020 challenge: box AP \d",
    r"No published results",
)


@each(LEAVES)
def test_the_docstring_gives_the_published_result(path):
    text = " ".join(ast.get_docstring(ast.parse(path.read_text())).split())
    assert re.search("|".join(NUMBERS), text)
