"""Evidence: its protocol can be run, and its page shows the recorded results."""

import concurrent.futures
import importlib
import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import instantiate

from d2_seesaw.cli.generate import argument_parser
from d2_seesaw.engine import load_config
from d2_seesaw.synthetic.profile import PROFILES
from tests.support.markdown import ROOT

FOLDER = ROOT / "benchmarks/evidence"
OUTPUTS = ("roi_heads.box_predictor.bbox_pred.", "roi_heads.mask_head.predictor.")


@pytest.fixture
def evidence(monkeypatch):
    """Return a function that imports a module of the evidence."""
    monkeypatch.syspath_prepend(str(FOLDER))
    names = ("recipes", "tables", "protocol", "start", "run", "image_counts", "context_encoder")
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)


def test_recipes_of_one_name_are_one_recipe(evidence):
    protocol = evidence("protocol")
    known = protocol.RECIPES
    for table in protocol.TABLES:
        assert all(known[recipe.name] == recipe for recipe in table.recipes)
        assert len({recipe.name for recipe in table.recipes}) == len(table.recipes)


def test_nothing_is_prepared_after_the_time(evidence, tmp_path, monkeypatch):
    run, table = evidence("run"), evidence("protocol").CONTEXT[0]
    prepared = []
    monkeypatch.setattr(run.Runner, "prepare", lambda self, data: prepared.append(data))
    monkeypatch.setattr(run.Runner, "start", lambda self, recipe: tmp_path)
    monkeypatch.setattr(run, "start_hash", lambda path: "")
    monkeypatch.setattr(run, "check_start", lambda table, start: None)
    monkeypatch.setattr(run, "is_finished", lambda recipe, seed: False)
    runner = run.Runner(tmp_path, None, None)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        run._run_table(runner, table, pool, time.monotonic() - 1)
    assert not prepared


def test_a_recipe_follows_the_one_whose_models_it_uses(evidence):
    protocol = evidence("protocol")
    names = list(protocol.RECIPES)
    for recipe in protocol.RECIPES.values():
        assert not recipe.of or names.index(recipe.of) < names.index(recipe.name)
        assert bool(recipe.of) or not (recipe.calibration or recipe.split)


def test_a_missing_model_is_trained_before_it_is_used(evidence, tmp_path, monkeypatch):
    run, recipes = evidence("run"), evidence("protocol").RECIPES
    commands = []

    def command(self, arguments, log, data=None):
        commands.append(arguments)
        of = dict(a.split("=", 1) for a in arguments if "=" in a)
        folder = Path(of["train.output_dir"])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model_final.pth").touch()
        (folder / "inference").mkdir(exist_ok=True)
        (folder / "inference/metrics_sem_seg.json").write_text('{"mIoU": 50.0}')
        return {"cpu_seconds": 1.0}

    monkeypatch.setattr(run.Runner, "command", command)
    written = []
    monkeypatch.setattr(run, "write_result", lambda *result: written.append(result))
    monkeypatch.setattr(run, "is_finished", lambda recipe, seed: recipe.name == "semantic")
    runner = run.Runner(tmp_path, None, None)
    runner.run(recipes["semantic_recall_continued_known_images"], 2)
    runs = tmp_path / "runs"
    model = "train.init_checkpoint={}/model_final.pth"
    first, second, third = commands
    assert f"train.output_dir={runs / 'semantic-2'}" in first
    assert model.format(runs / "semantic-2") in second
    assert "--eval-only" not in second
    assert {"--eval-only", "dataloader.test.dataset.names=semantic_quickstart_train"} <= {*third}
    assert model.format(runs / "semantic_recall_continued-2") in third
    assert [(recipe.name, seed) for recipe, seed, _ in written] == [
        ("semantic_recall_continued_known_images", 2)
    ]
    runner.run(recipes["semantic_continued"], 2)
    assert len(commands) == 4  # the model of cross-entropy is there now


@pytest.mark.slow
def test_every_recipe_has_a_model_that_builds(evidence, tmp_path):
    run = evidence("run")
    for recipe in evidence("protocol").RECIPES.values():
        if recipe.calibration:
            continue
        path = tmp_path / "config.py"
        path.write_text(run.config_text(recipe))
        cfg = load_config(str(path), [f"{key}={value}" for key, value in recipe.overrides.items()])
        if recipe.config != "image_counts":  # which reads the data
            with torch.device("meta"):
                instantiate(cfg.model)


@pytest.mark.parametrize("number", [10, 100, 1000])
def test_the_images_of_shapes_have_room_for_their_categories(evidence, number):
    command, *options = evidence("protocol").SHAPES[number].command
    args = argument_parser().parse_args([command, *options])
    profile, (_, most) = PROFILES[args.profile], args.objects
    appearances = profile.image_counts(args.categories, args.train_images).sum()
    assert appearances <= args.train_images * most
    assert args.categories == number


def test_every_result_belongs_to_the_protocol(evidence):
    known, tables = evidence("protocol").RECIPES, evidence("tables")
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


def test_a_ranked_table_has_the_best_recipe_first(evidence, tmp_path, monkeypatch):
    table, tables = evidence("protocol").LOSSES, evidence("tables")
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    origin = {"commit": "abc", "processor": "one CPU", "torch": "2", "start": "one"}
    names = [recipe.name for recipe in table.recipes[:3]]
    for recipe, ap in zip(table.recipes[:3], (5.0, 6.0, 7.0), strict=True):
        for seed in (1, 2):
            scores = {"bbox": {"AP": 1.0}, "segm": {"AP": ap + seed}, "cpu_seconds": 1.0}
            tables.write_result(recipe, seed, {**scores, **origin})
    differences = {n: {m: [1.0, 0.5, 1.5] for m in table.metrics} for n in names[1:]}
    (tmp_path / "comparisons").mkdir()
    content = json.dumps({"seeds": [1, 2], "differences": differences})
    (tmp_path / "comparisons/losses.json").write_text(content)
    lines = tables.show(table).splitlines()
    shown = [line.split(" | ")[0].removeprefix("| ") for line in lines if line.startswith("| ")]
    assert [n for n in shown if n in names] == [*names[::-1], names[2], names[1]]


def test_all_kinds_of_cascades_start_from_the_heads_of_the_detector(evidence, tmp_path):
    run, (table, _) = evidence("run"), evidence("protocol").CONTEXT
    with torch.device("meta"):
        detector = instantiate(load_config(str(FOLDER / "configs/instances.py")).model)
    state = {name: torch.randn(value.shape) for name, value in detector.state_dict().items()}
    boxes = state["roi_heads.box_predictor.bbox_pred.weight"][:4]
    outputs = {n: v[: len(v) // 55] for n, v in state.items() if n.startswith(OUTPUTS)}
    torch.save({"model": {**state, **outputs}}, tmp_path / "detector.pth")
    evidence("start").write_start(tmp_path / "detector.pth", 55, tmp_path / "start.pth")
    for recipe in table.recipes:
        evidence("start").write_cascade_start(
            tmp_path / "start.pth", recipe.stages, tmp_path / "cascade.pth"
        )
        start = torch.load(tmp_path / "cascade.pth", weights_only=True)["model"]
        path = tmp_path / "config.py"
        path.write_text(run.config_text(recipe))
        with torch.device("meta"):
            model = instantiate(load_config(str(path)).model).state_dict()
        missing = {n for n, v in model.items() if n not in start or v.shape != start[n].shape}
        own = ("cls_score", "cls_loss", "context_encoder", "conv_res")
        assert missing == {n for n in model if any(f".{part}." in n for part in own)}
        assert torch.equal(start["roi_heads.box_predictor.2.bbox_pred.weight"], boxes)
        fc = "fc1.weight"
        assert torch.equal(start[f"roi_heads.box_head.1.{fc}"], state[f"roi_heads.box_head.{fc}"])
        for head in ("mask_head", "mask_head.1"):
            weight = start[f"roi_heads.{head}.deconv.weight"]
            assert torch.equal(weight, state["roi_heads.mask_head.deconv.weight"])


def test_a_table_refuses_results_of_different_starts(evidence, tmp_path, monkeypatch):
    table, tables = evidence("protocol").ABLATION, evidence("tables")
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    scores = {"bbox": {"AP": 1.0}, "segm": {"AP": 1.0}, "cpu_seconds": 1.0}
    scores |= {"commit": "abc", "processor": "one CPU", "torch": "2"}
    for recipe in table.recipes[:2]:
        tables.write_result(recipe, 1, {**scores, "start": "one"})
    shown = tables.show(table)
    assert shown.index("| seesaw_2 |") < shown.index("| no_compensation |")
    assert "`python benchmarks/evidence/run.py --tables ablation`, seeds 1, one CPU" in shown
    tables.check_start(table, "one")
    tables.write_result(table.recipes[1], 2, {**scores, "start": "two"})
    with pytest.raises(ValueError, match=r"no_compensation, seed 2, started from the weights two"):
        tables.show(table)


def test_the_area_under_the_roc_curve_is_the_share_of_pairs_in_the_right_order(evidence):
    module = evidence("context_encoder")
    present = np.array([True, False, True, False, False])
    # Of six pairs, four are in the right order and one has equal scores.
    area = module.area_under_roc(np.array([0.9, 0.1, 0.4, 0.4, 0.5]), present)
    assert area == pytest.approx(4.5 / 6)
    knows, chance, rare = np.arange(40.0), np.zeros(40), np.arange(40.0)
    scores = np.stack([knows, chance, rare], axis=1)
    often = np.arange(40) >= 30
    seldom = np.arange(40) < 9  # in fewer than 10 images
    areas = module.mean_area(scores, np.stack([often, often, seldom], axis=1))
    assert areas == pytest.approx((100 + 50) / 2)
