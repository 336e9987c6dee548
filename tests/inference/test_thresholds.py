"""Thresholds of classes in predictions."""

import json
import logging
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.structures import Instances
from PIL import Image
from torch import nn

from d2_seesaw.evaluation.analysis.operating_points import BEST_F1, ThresholdRule
from d2_seesaw.evaluation.analysis.threshold_file import SplitThresholds, write_thresholds
from d2_seesaw.evaluation.predictions import score_origin
from d2_seesaw.evaluation.predictions.score_origin import ScoreOrigin
from d2_seesaw.inference import FilePredictions, find_sources
from d2_seesaw.inference.thresholds import ScoreThresholds, load_thresholds, lower_score_limits
from d2_seesaw.utils.files import file_hash
from tests.evaluation.analysis.test_threshold_file import SPLIT, task_thresholds
from tests.inference.test_files import METADATA, predictor, red_box

NAMES = {"class_names": ["urn", "mug", "spoon", "chalice"]}


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "model_final.pth"
    path.write_bytes(b"weights")
    write_thresholds(path, SPLIT)
    return path


def test_classes_are_found_by_name_and_unknown_ones_use_the_threshold_of_all(
    checkpoint, caplog, monkeypatch
):
    with caplog.at_level(logging.INFO):
        found = load_thresholds(BEST_F1, checkpoint, NAMES, masks=True, tta=False)
    assert found.values.tolist() == [0.6, 0.3, 0.6, 0.2]
    assert found.of_masks
    origin = ScoreOrigin(str(checkpoint), found.sha256, False, False)
    with monkeypatch.context() as patched:  # the hash is known, and a prediction records it
        patched.setattr(score_origin, "file_hash", None)
        recorded = origin.recorded()
    assert (recorded.checkpoint, recorded.sha256) == ("model_final.pth", file_hash(checkpoint))
    assert replace(origin, sha256=None).recorded() == recorded
    assert ScoreOrigin("https://host/m.pth").recorded() == ScoreOrigin("m.pth")
    assert caplog.messages[-1] == (
        "Thresholds best-f1 from my_val (segm): 0.200 to 0.600, chosen on the class itself for 1, "
        "its frequency group for 1, all classes for 2; 1 classes are not in the split"
    )
    high = ThresholdRule("precision", 1.0)
    with caplog.at_level(logging.INFO):
        load_thresholds(high, checkpoint, NAMES, masks=True, tta=False)
    assert "classes do not reach the target" in caplog.messages[-1]


def test_a_number_needs_no_file(tmp_path):
    rule = ThresholdRule.parse("0.3")
    found = load_thresholds(rule, tmp_path / "no.pth", NAMES, masks=True, tta=False)
    assert found.values.tolist() == [0.3] * 4


def test_thresholds_that_do_not_fit_the_model_are_refused(checkpoint):
    with pytest.raises(ValueError, match=r"no class of the model \(cup \.\.\.\) is in .*mug"):
        load_thresholds(BEST_F1, checkpoint, {"class_names": ["cup"]}, masks=True, tta=False)
    with pytest.raises(ValueError, match="are for masks, the model has none"):
        load_thresholds(BEST_F1, checkpoint, NAMES, masks=False, tta=False)
    with pytest.raises(ValueError, match=r"_tta\.thresholds\.json.*--eval-only --tta"):
        load_thresholds(BEST_F1, checkpoint, NAMES, masks=True, tta=True)
    nothing = task_thresholds()
    nothing.pools["all"] = nothing.points[2]
    write_thresholds(checkpoint, SplitThresholds("my_val", "", 1, {"segm": nothing}))
    with pytest.raises(ValueError, match="no detection in my_val was right"):
        load_thresholds(BEST_F1, checkpoint, NAMES, masks=True, tta=False)


def detections(scores, classes, **fields):
    return Instances(
        (9, 9), scores=torch.tensor(scores), pred_classes=torch.tensor(classes), **fields
    )


def test_a_detection_is_kept_if_its_score_is_at_least_the_threshold_of_its_class():
    thresholds = ScoreThresholds(torch.tensor([0.7, 0.2], dtype=torch.float64), "best-f1")
    found = detections([0.7, 0.69, 0.2, 0.19], [0, 0, 1, 1])
    assert thresholds.select(found).scores.tolist() == found.scores[[0, 2]].tolist()
    of_masks = ScoreThresholds(thresholds.values, "best-f1", of_masks=True)
    found.mask_scores = torch.tensor([0.5, 0.9, 0.1, 0.3])
    assert of_masks.select(found).mask_scores.tolist() == found.mask_scores[[1, 3]].tolist()


def test_the_threshold_of_the_model_is_lowered_below_the_smallest_and_never_raised():
    last = SimpleNamespace(test_score_thresh=0.5)
    model = SimpleNamespace(roi_heads=SimpleNamespace(box_predictor=last))
    lower_score_limits(model, 0.2)
    assert last.test_score_thresh < np.float32(0.2)
    assert torch.tensor([0.2]) > last.test_score_thresh
    lower_score_limits(model, 0.3)
    assert last.test_score_thresh < 0.2
    lower_score_limits(model, 0.0)
    assert last.test_score_thresh == 0.0
    stages = nn.ModuleList(nn.Identity() for _ in range(2))
    for stage in stages:
        stage.test_score_thresh = 0.05
    lower_score_limits(SimpleNamespace(roi_heads=SimpleNamespace(box_predictor=stages)), 0.01)
    assert max(stage.test_score_thresh for stage in stages) < 0.01


def test_files_are_written_with_the_thresholds_of_the_classes(tmp_path, caplog):
    (tmp_path / "in").mkdir()
    Image.fromarray(red_box(5)).save(tmp_path / "in/a.png")
    made = predictor()  # scores 0.3 of class 0; 0.9 and 0.6 of class 1
    made.thresholds = ScoreThresholds(torch.tensor([0.25, 0.7]), "best-f1")
    assert len(METADATA["class_names"]) == 2
    predictions = FilePredictions(made, tmp_path / "out", draw=False)
    predictions.run(find_sources([tmp_path / "in"], tmp_path / "out"))
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert [r["score"] for r in results] == pytest.approx([0.9, 0.3])
    assert predictions.advice() == (
        "Detections that reach the threshold of their class (best-f1): 2 of 3, the highest score "
        "is 0.900"
    )
    found = made(tmp_path / "in/a.png")["instances"]
    assert sorted(found.scores.tolist()) == pytest.approx([0.3, 0.9])
