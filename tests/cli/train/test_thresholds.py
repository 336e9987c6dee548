"""Hook of score thresholds after evaluations that a resumed training does not repeat."""

import json
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf
from torch import nn

from d2_seesaw.checkpoint import CALIBRATION
from d2_seesaw.cli.train import evaluating
from d2_seesaw.cli.train.thresholds import ThresholdsHook
from d2_seesaw.evaluation import LongTailLVISEvaluator, evaluate_results_file
from d2_seesaw.evaluation.analysis import threshold_file
from d2_seesaw.evaluation.analysis.threshold_file import read_thresholds, write_thresholds
from d2_seesaw.evaluation.predictions import score_origin
from d2_seesaw.utils.files import file_hash as of_file
from tests.evaluation.analysis.test_threshold_file import SPLIT
from tests.evaluation.conftest import register  # noqa: F401
from tests.evaluation.lvis_data import random_data, run_evaluator


@pytest.mark.parametrize("name", ["model_final.pth", "model_best.pth"])
def test_a_recorded_evaluation_leaves_no_thresholds_of_another_checkpoint(tmp_path, name, caplog):
    path = tmp_path / name
    best = SimpleNamespace(metric="segm/AP", best={"iteration": 0})
    hook = ThresholdsHook(SimpleNamespace(thresholds=None), best, str(tmp_path))
    hook.trainer = SimpleNamespace(start_iter=1, iter=1, max_iter=1)

    def resumed():
        hook.before_train()
        hook.after_train()

    path.write_bytes(b"trained")
    file = write_thresholds(path, SPLIT)
    resumed()
    assert read_thresholds(path).dataset == "my_val"
    path.write_bytes(b"trained further")
    resumed()
    assert not file.exists()
    assert "Removed score thresholds that cannot be used" in caplog.text
    assert "--eval-only" in caplog.text
    hook.evaluator.thresholds = SPLIT
    resumed()
    assert read_thresholds(path).dataset == "my_val"


@pytest.fixture
def evaluated_as(register, tmp_path, monkeypatch):  # noqa: F811
    """Return a function like ``evaluate_checkpoint``, with detections in place of a model."""
    data, detections = random_data(seed=60)
    name = register(data)
    out = {"output_dir": str(tmp_path / "inference"), "distributed": False}
    checkpoint = tmp_path / "model_final.pth"
    checkpoint.write_bytes(b"weights")
    cfg = {"train": {"init_checkpoint": str(checkpoint), "allow_partial_checkpoint": None}}
    cfg |= {"dataloader": {"evaluator": {"name": name, **out}}, "tta": {"model": None}}

    def build(part):
        return nn.Identity() if "name" not in part else LongTailLVISEvaluator(name, **{
            key: part[key] for key in out
        })  # fmt: skip

    def load(*_, **__):
        return SimpleNamespace(load=lambda _: {CALIBRATION: "of the checkpoint"})

    replaced = {"build": build, "StrictCheckpointer": load, "boxes_only": lambda _: None}
    replaced["evaluate"] = lambda _, __, evaluator: run_evaluator(evaluator, detections)
    replaced["build_model"] = lambda _: nn.Identity()
    for function in ("apply_calibration", "set_class_names", "trained_classes"):
        replaced[function] = lambda *_, **__: None
    replaced["masks_left_out"] = lambda _: False
    for function, substitute in replaced.items():
        monkeypatch.setattr(evaluating, function, substitute)

    def run(*, tta, calibrated):
        evaluating.evaluate_checkpoint(
            OmegaConf.create(cfg, flags={"allow_objects": True}), tta=tta, calibrated=calibrated
        )
        folder = tmp_path / ("inference_tta" if tta else "inference")
        return checkpoint, folder / "lvis_instances_results.json", tmp_path / f"{name}.json"

    return run


@pytest.mark.parametrize("tta", [False, True])
def test_an_evaluation_records_the_origin_of_its_scores(evaluated_as, tta, monkeypatch):
    hashed = []
    for module in (score_origin, threshold_file):
        monkeypatch.setattr(module, "file_hash", lambda path: hashed.append(path) or of_file(path))
    checkpoint, results, annotations = evaluated_as(tta=tta, calibrated=True)
    assert len(hashed) == 1  # for the record and the thresholds
    stem = "model_final_tta" if tta else "model_final"
    thresholds = checkpoint.with_name(f"{stem}.thresholds.json")
    text = thresholds.read_text()
    origin = json.loads(results.with_name("instances_origin.json").read_text())
    assert origin == {
        "checkpoint": "model_final.pth", "changed": False, "tta": tta, "without_calibration": False,
        "sha256": json.loads(text)["checkpoint"]["sha256"],
    }  # fmt: skip
    dataset = json.loads(text)["split"]["dataset"]
    given = {"thresholds_of": checkpoint, "tta": tta, "dataset": dataset}
    evaluate_results_file(results, annotations, **given)
    assert len(hashed) == 2
    assert thresholds.read_text() == text
    other = checkpoint.with_name("model_0000009.pth")
    other.write_bytes(b"others")
    with pytest.raises(ValueError, match=r"by model_final\.pth .*; that of .*model_0000009\.pth"):
        evaluate_results_file(results, annotations, **given | {"thresholds_of": other})
    with pytest.raises(ValueError, match=r"test-time augmentation, says .*instances_origin\.json"):
        evaluate_results_file(results, annotations, **given | {"tta": not tta})
    evaluated_as(tta=tta, calibrated=False)
    with pytest.raises(ValueError, match=r"without calibration, says .*_origin\.json; .*own"):
        evaluate_results_file(results, annotations, **given)
    assert thresholds.read_text() == text
    run_evaluator(
        LongTailLVISEvaluator(dataset, distributed=False, output_dir=str(results.parent)),
        random_data(seed=60)[1],
    )  # as in a training, whose weights are in no file
    assert not results.with_name("instances_origin.json").exists()
    results.with_name("instances_origin.json").write_text('{"tta": 1}')
    with pytest.raises(ValueError, match=r"instances_origin\.json is damaged: Expected `bool"):
        evaluate_results_file(results, annotations, **given)
