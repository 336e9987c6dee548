import logging
import math
import sys
import threading
import types

import lvis
import numpy as np
import pytest

from d2_seesaw.evaluation.lvis import official
from d2_seesaw.evaluation.lvis.official import (
    evaluate_detections,
    lvis_from_dict,
    probe_lvis,
    working_lvis,
)
from d2_seesaw.evaluation.lvis.rules import METRICS
from d2_seesaw.evaluation.predictions.detections import EMPTY, Detections
from tests.evaluation.lvis_data import (
    ImageDetections,
    add_object,
    dataset,
    official_evaluation,
    official_metrics,
    perfect_detections,
    random_data,
    write_json,
)


def evaluate(data, detections, task="bbox", **options):
    results = [r for d in detections for r in d.as_lvis(task)]
    found = Detections.from_results(results)
    return evaluate_detections(lvis_from_dict(data), found, task, **options)


def numpy_is_unchanged():
    return lvis.eval.np is np and "float" not in vars(np)


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_official_numbers(seed, task, tmp_path, monkeypatch):
    data, detections = random_data(seed)
    json_file = write_json(tmp_path / "gt.json", data)
    expected = official_metrics(
        official_evaluation(json_file, detections, task, monkeypatch), METRICS
    )
    ours = evaluate(data, detections, task).metrics
    assert 5 < expected["AP"] < 95, "the case must be able to tell right from wrong"
    assert ours == pytest.approx(expected, rel=0, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_a_category_averages_its_own_official_precision(task, tmp_path, monkeypatch):
    data, detections = random_data(seed=5)
    json_file = write_json(tmp_path / "gt.json", data)
    precision = official_evaluation(json_file, detections, task, monkeypatch).eval["precision"]
    scores = evaluate(data, detections, task)
    for k in range(len(scores.category_ids)):
        category_precision = precision[:, :, k, 0]
        assert scores.category_ap[k] == pytest.approx(100 * category_precision.mean(), abs=1e-9)
        assert scores.category_ap50[k] == pytest.approx(
            100 * category_precision[0].mean(), abs=1e-9
        )


def test_a_limit_on_detections_per_image_is_the_official_one(tmp_path, monkeypatch):
    data, detections = random_data(seed=6)
    json_file = write_json(tmp_path / "gt.json", data)
    evaluation = official_evaluation(json_file, detections, "bbox", monkeypatch, max_dets=3)
    limited = evaluate(data, detections, max_dets_per_image=3).metrics
    assert limited == pytest.approx(official_metrics(evaluation, METRICS), abs=1e-9, nan_ok=True)
    assert limited["AP"] < evaluate(data, detections).metrics["AP"]


def test_half_of_the_objects_found_scores_51_of_101_recall_points():
    data = dataset("r")
    for x in (0, 60):
        add_object(data, 1, 1, [x, 0, 40, 40])
    found = ImageDetections(1).add(1, [0, 0, 40, 40])
    assert evaluate(data, [found]).metrics["AP"] == pytest.approx(100 * 51 / 101)


def test_a_false_positive_ranked_first_halves_precision():
    data = dataset("f")
    add_object(data, 1, 1, [0, 0, 40, 40])
    found = ImageDetections(1).add(1, [100, 100, 40, 40], 0.9).add(1, [0, 0, 40, 40], 0.5)
    assert evaluate(data, [found]).metrics["AP"] == pytest.approx(50.0)


@pytest.mark.parametrize(
    ("set_name", "expected"),
    [(None, 100.0), ("neg_category_ids", 50.0), ("not_exhaustive_category_ids", 100.0)],
)
def test_a_wrong_detection_lowers_ap_only_if_its_absence_was_verified(set_name, expected):
    data = dataset("f", image_ids=(1, 2))
    add_object(data, 1, 1, [0, 0, 40, 40])
    if set_name:
        data["images"][1][set_name] = [1]
    wrong = ImageDetections(2).add(1, [0, 0, 40, 40], 0.95)
    found = [*perfect_detections(data)[:1], wrong]
    assert evaluate(data, found).metrics["AP"] == pytest.approx(expected)


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_no_detections_score_zero_where_there_is_ground_truth(task):
    data = dataset("rcf")
    add_object(data, 1, 1, [0, 0, 20, 20])
    add_object(data, 1, 3, [50, 0, 20, 20])
    scores = evaluate(data, [], task)
    zero, absent = 0.0, math.nan
    expected = dict.fromkeys(METRICS, zero) | {
        f"{m}{g}": absent for m in ("AP", "AR") for g in "mlc"
    }
    assert scores.metrics == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_the_area_of_a_mask_decides_its_size(task):
    data = dataset("f")
    add_object(data, 1, 1, [0, 0, 20, 20])
    found = {**ImageDetections(1).add(1, [0, 0, 20, 20]).as_lvis("segm")[0], "bbox": [0, 0, 90, 90]}
    beside = {**found, "score": 0.95, "segmentation": separate_mask(), "bbox": [100, 100, 90, 90]}
    detections = Detections.from_results([found, beside])
    metrics = evaluate_detections(lvis_from_dict(data), detections, task).metrics
    # By its mask the wrong detection is small and costs precision; by its box it would be medium.
    assert metrics["APs"] == pytest.approx(50.0 if task == "segm" else 0.0)


def separate_mask():
    return ImageDetections(1).add(1, [100, 100, 20, 20]).as_lvis("segm")[0]["segmentation"]


def test_numpy_is_unchanged_after_an_evaluation():
    evaluate(*random_data(seed=8))
    assert numpy_is_unchanged()


def test_numpy_is_unchanged_after_an_exception():
    with pytest.raises(AttributeError, match="no_such_name"), working_lvis():
        lvis.eval.np.no_such_name()
    assert numpy_is_unchanged()


def test_numpy_is_unchanged_while_lvis_runs():
    with working_lvis():
        assert lvis.eval.np.float is float
        assert "float" not in vars(np)


def test_blocks_may_be_nested():
    with working_lvis():
        with working_lvis():
            pass
        assert lvis.eval.np.float is float
    assert numpy_is_unchanged()


def test_threads_may_overlap():
    entered, errors = threading.Barrier(2), []

    def run():
        entered.wait()
        try:
            evaluate(*random_data(seed=9))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert numpy_is_unchanged()


def test_a_release_without_the_name_np_works(monkeypatch):
    fixed = types.ModuleType("lvis.eval")
    monkeypatch.setitem(sys.modules, "lvis.eval", fixed)
    with working_lvis():
        assert not hasattr(fixed, "np")
    assert not hasattr(fixed, "np")


def test_lvis_is_silenced_only_while_it_runs(caplog):
    data, _ = random_data(seed=10)
    ground_truth = lvis_from_dict(data)
    with caplog.at_level(logging.INFO, logger="lvis"):
        evaluate_detections(ground_truth, EMPTY, "bbox")
        assert logging.getLogger("lvis").level == logging.INFO
    assert not [r for r in caplog.records if r.name.startswith("lvis")]


def test_probe_accepts_this_installation():
    probe_lvis()


def test_probe_reports_a_missing_package_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "lvis", None)
    with pytest.raises(ImportError, match=r"pip install lvis pycocotools"):
        probe_lvis()


def test_probe_reports_what_fails_in_lvis(monkeypatch):
    monkeypatch.setattr(official, "_NumpyWithFloat", lambda: np)
    with pytest.raises(RuntimeError, match=r"(?s)'bbox' fails with AttributeError.*numpy \d"):
        probe_lvis()


def test_probe_reports_wrong_numbers(monkeypatch):
    summarize = lvis.LVISEval.summarize

    def off_by_one(self):
        summarize(self)
        self.results["APr"] -= 0.01

    monkeypatch.setattr(lvis.LVISEval, "summarize", off_by_one)
    with pytest.raises(RuntimeError, match=r"computes .*'APr': 98.*'APr': 100.0.* is right"):
        probe_lvis()
