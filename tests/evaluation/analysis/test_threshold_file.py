"""The file of thresholds beside a checkpoint."""

import json
import logging
import os

import numpy as np
import pytest

from d2_seesaw.evaluation.analysis.operating_points import (
    BEST_F1,
    OperatingPoints,
    ThresholdRule,
)
from d2_seesaw.evaluation.analysis.threshold_analysis import TaskThresholds
from d2_seesaw.evaluation.analysis.threshold_file import (
    SplitThresholds,
    file_hash,
    read_thresholds,
    thresholds_path,
    write_thresholds,
    write_thresholds_if_possible,
)


def points(*rows, objects):
    thresholds, right, detections = zip(*rows, strict=True) if rows else ((), (), ())
    counts = (np.array(x, dtype=np.int64) for x in (right, detections))
    return OperatingPoints(np.array(thresholds, float), *counts, objects)


def task_thresholds(names=("mug", "chalice", "urn")):
    own = [
        points((0.8, 2, 2), (0.3, 4, 6), objects=5),
        points((0.4, 1, 1), objects=1),
        points(objects=0),
    ]
    pools = {
        "r": points((0.2, 3, 4), objects=4),
        "c": points(objects=0),
        "f": own[0],
        "all": points((0.6, 5, 6), (0.1, 9, 20), objects=10),
    }
    return TaskThresholds([3, 8, 11], list(names), ["f", "r", "c"], own, pools, f1=61.5)


SPLIT = SplitThresholds("my_val", "0123456789abcdef", 7, {"segm": task_thresholds()})


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "model_final.pth"
    path.write_bytes(b"weights")
    return path


def test_thresholds_of_every_rule_survive_the_file(checkpoint):
    path = write_thresholds(checkpoint, SPLIT)
    assert path.name == "model_final.thresholds.json"
    found = read_thresholds(checkpoint)
    assert (found.dataset, found.ground_truth, found.images) == ("my_val", "0123456789abcdef", 7)
    for text in ("best-f1", "precision=0.9", "recall=0.7", "0.25"):
        rule = ThresholdRule.parse(text)
        again, expected = (s.tasks["segm"].select(rule) for s in (found, SPLIT))
        assert again.values.tolist() == expected.values.tolist()
        assert (again.origins, again.reached) == (expected.origins, expected.reached)
    best = found.tasks["segm"].select(BEST_F1)
    assert best.values.tolist() == [0.3, 0.2, 0.6]
    assert best.origins == ["own", "r", "all"]


def test_the_file_names_its_checkpoint_and_split_and_is_reproducible(checkpoint):
    path = write_thresholds(checkpoint, SPLIT)
    text = path.read_text()
    data = json.loads(text)
    assert data["checkpoint"] == {"file": "model_final.pth", "sha256": file_hash(checkpoint)}
    assert data["split"]["dataset"] == "my_val"
    assert data["tasks"]["segm"]["rule"] == "best-f1"
    assert write_thresholds(checkpoint, SPLIT).read_text() == text
    assert thresholds_path(checkpoint, tta=True).name == "model_final_tta.thresholds.json"


def test_formats_of_a_checkpoint_have_thresholds_of_their_own(checkpoint):
    other = checkpoint.with_suffix(".safetensors")
    other.write_bytes(b"weights as safetensors")
    for path in (checkpoint, other):
        write_thresholds(path, SPLIT)
    assert {read_thresholds(path).dataset for path in (checkpoint, other)} == {"my_val"}


def test_a_missing_file_and_another_checkpoint_are_refused_with_the_command(checkpoint):
    with pytest.raises(ValueError, match=r"no score thresholds of .*\.pth.*--thresholds-of"):
        read_thresholds(checkpoint)
    write_thresholds(checkpoint, SPLIT)
    checkpoint.write_bytes(b"other weights")
    with pytest.raises(ValueError, match=r"another checkpoint .*its hash differs.*--eval-only"):
        read_thresholds(checkpoint)


def change(data, *path, value):
    for key in path[:-1]:
        data = data[key]
    data[path[-1]] = value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("format",), "x"),
        (("version",), 2),
        (("tasks",), {}),
        (("tasks",), 7),
        (("tasks", "segm", "pools"), {}),
        (("tasks", "segm", "categories", 0, "points"), [[0.5, 2]]),
        (("tasks", "segm", "categories", 0, "points"), [[0.5, 3, 2]]),
        (("tasks", "segm", "categories", 0, "points"), [["x", 3, 2]]),
        (("tasks", "segm", "categories", 0), None),
        (("checkpoint",), None),
    ],
)
def test_a_damaged_file_is_one_clear_error(checkpoint, path, value):
    file = write_thresholds(checkpoint, SPLIT)
    data = json.loads(file.read_text())
    change(data, *path, value=value)
    file.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"is not a file of score thresholds"):
        read_thresholds(checkpoint)


def test_a_folder_that_cannot_be_written_is_a_line_in_the_log(checkpoint, caplog, monkeypatch):
    def replace(source, target):
        raise PermissionError(13, "Permission denied", str(source))

    monkeypatch.setattr(os, "replace", replace)
    with caplog.at_level(logging.INFO):
        write_thresholds_if_possible(checkpoint, SPLIT)
        write_thresholds_if_possible("https://host/model.pth", SPLIT)
    assert "cannot be written: Permission denied" in caplog.messages[0]
    assert "which is a URL" in caplog.messages[1]
    assert [p.name for p in checkpoint.parent.iterdir()] == ["model_final.pth"]
