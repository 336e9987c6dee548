"""Evidence: its protocol can be run, and its page shows the recorded results."""

import importlib
import json
import sys

import pytest
import torch
from detectron2.config import instantiate

from d2_seesaw.engine import load_config
from tests.support.markdown import ROOT

FOLDER = ROOT / "benchmarks/evidence"


@pytest.fixture
def evidence(monkeypatch):
    """Return a function that imports a module of the evidence."""
    monkeypatch.syspath_prepend(str(FOLDER))
    names = ("recipes", "tables", "protocol", "start", "run", "image_counts")
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)


def recipes_of(protocol):
    return {recipe.name: recipe for table in protocol.TABLES for recipe in table.recipes}


def test_recipes_of_one_name_are_one_recipe(evidence):
    protocol = evidence("protocol")
    known = recipes_of(protocol)
    for table in protocol.TABLES:
        assert all(known[recipe.name] == recipe for recipe in table.recipes)
        assert len({recipe.name for recipe in table.recipes}) == len(table.recipes)


def test_a_calibration_follows_its_model_in_the_same_table(evidence):
    for table in evidence("protocol").TABLES:
        names = [recipe.name for recipe in table.recipes]
        for recipe in table.recipes:
            assert not recipe.calibration or names.index(recipe.of) < names.index(recipe.name)


@pytest.mark.slow
def test_every_recipe_has_a_model_that_builds(evidence, tmp_path):
    run = evidence("run")
    for recipe in recipes_of(evidence("protocol")).values():
        if recipe.calibration:
            continue
        path = tmp_path / "config.py"
        path.write_text(run.config_text(recipe))
        cfg = load_config(str(path), [f"{key}={value}" for key, value in recipe.overrides.items()])
        if recipe.config != "image_counts":  # which reads the data
            with torch.device("meta"):
                instantiate(cfg.model)


def test_every_result_belongs_to_the_protocol(evidence):
    known, tables = recipes_of(evidence("protocol")), evidence("tables")
    for path in tables.RESULTS.glob("*.json"):
        result = json.loads(path.read_text())
        recipe = known[result["recipe"]]
        assert tables.result_file(recipe, result["seed"]) == path
        assert result["fingerprint"] == recipe.fingerprint()


def test_the_page_has_the_tables_of_the_results(evidence):
    page = (ROOT / "docs/evidence.md").read_text()
    show = evidence("tables").show
    for table in evidence("protocol").TABLES:
        assert show(table) in page


def test_the_start_has_the_outputs_of_the_one_class_for_every_class(evidence, tmp_path):
    state = {
        "roi_heads.box_predictor.bbox_pred.weight": torch.arange(8.0).view(4, 2),
        "roi_heads.box_predictor.bbox_pred.bias": torch.arange(4.0),
        "roi_heads.mask_head.predictor.weight": torch.ones(1, 2, 1, 1),
        "roi_heads.box_predictor.cls_score.weight": torch.ones(3, 2),
        "backbone.weight": torch.ones(5),
    }
    torch.save({"model": state}, tmp_path / "model.pth")
    evidence("start").write_start(tmp_path / "model.pth", 3, tmp_path / "start.pth")
    start = torch.load(tmp_path / "start.pth", weights_only=True)["model"]
    assert "roi_heads.box_predictor.cls_score.weight" not in start
    boxes = start["roi_heads.box_predictor.bbox_pred.weight"].view(3, 4, 2)
    assert all(
        torch.equal(boxes[c], state["roi_heads.box_predictor.bbox_pred.weight"]) for c in range(3)
    )
    assert start["roi_heads.mask_head.predictor.weight"].shape == (3, 2, 1, 1)
    assert torch.equal(start["backbone.weight"], state["backbone.weight"])


def test_a_table_refuses_results_of_different_starts(evidence, tmp_path, monkeypatch):
    table, tables = evidence("protocol").ABLATION, evidence("tables")
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    scores = {"bbox": {"AP": 1.0}, "segm": {"AP": 1.0}, "cpu_seconds": 1.0, "commit": "abc"}
    for recipe in table.recipes[:2]:
        tables.write_result(recipe, 1, {**scores, "start": "one"})
    assert "seesaw_2" in tables.show(table)
    tables.check_start(table, "one")
    tables.write_result(table.recipes[1], 2, {**scores, "start": "two"})
    with pytest.raises(ValueError, match=r"no_compensation, seed 2, started from the weights two"):
        tables.show(table)
