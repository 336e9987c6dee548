"""Scoring of detections and of saved results, with either engine."""

import json

import pytest

from d2_seesaw.evaluation import DetectionLimits, LVISScoring, evaluate_results_file
from d2_seesaw.evaluation.analysis import analysis_path, read_analysis
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns
from d2_seesaw.evaluation.lvis.rules import METRICS
from d2_seesaw.evaluation.predictions.detections import Detections
from d2_seesaw.evaluation.scoring import check_tasks
from d2_seesaw.report import write_evaluation_report
from tests.evaluation.federated_cases import federated_case
from tests.evaluation.lvis_data import (
    official_evaluation,
    official_metrics,
    random_data,
    write_json,
)


@pytest.fixture
def saved(tmp_path):
    """Write annotations and box detections; return both paths and the detections."""
    data, detections = random_data(seed=3)
    annotations = write_json(tmp_path / "annotations.json", data)
    results = [d for image in detections for d in image.as_lvis("bbox")]
    (tmp_path / "results.json").write_text(json.dumps(results))
    return annotations, tmp_path / "results.json", detections


@pytest.mark.parametrize("engine", ["sparse", "lvis"])
def test_saved_results_score_as_with_the_official_package(saved, engine, monkeypatch):
    annotations, results, detections = saved
    metrics = evaluate_results_file(
        results, annotations, tasks=("bbox",), scoring=LVISScoring(engine=engine)
    )["bbox"]
    official = official_evaluation(annotations, detections, "bbox", monkeypatch)
    for name, value in official_metrics(official, METRICS).items():
        assert metrics[name] == pytest.approx(value, abs=1e-9, nan_ok=True)


def test_an_unknown_engine_is_reported():
    with pytest.raises(ValueError, match=r"engine must be among .*, got 'fast'"):
        LVISScoring(engine="fast")


def test_a_limit_below_one_is_reported():
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        LVISScoring(limits=DetectionLimits(per_image=0))


def test_an_unknown_task_is_reported():
    check_tasks(("bbox", "segm"))
    with pytest.raises(ValueError, match=r"tasks must be among .*'boxes'"):
        check_tasks(("boxes",))


def test_masks_of_results_without_masks_are_refused(saved):
    annotations, results, _ = saved
    with pytest.raises(ValueError, match="has detections for"):
        evaluate_results_file(results, annotations, tasks=("segm",))


def test_the_analysis_of_each_task_is_written(saved, tmp_path):
    annotations, results, detections = saved
    metrics = evaluate_results_file(results, annotations, output_dir=str(tmp_path / "out"))
    analysis = read_analysis(analysis_path(tmp_path / "out", "bbox"))
    assert analysis.metrics == pytest.approx(metrics["bbox"], nan_ok=True)
    assert analysis.detections == sum(len(d.scores) for d in detections)
    objects = len(json.loads(annotations.read_text())["annotations"])
    assert sum(c.objects for c in analysis.confusions) == objects
    assert sum(c.gt_instances for c in analysis.categories) == objects
    assert not (tmp_path / "out" / "longtail_segm.json").exists()


def test_a_folder_for_nothing_is_refused_before_anything_is_read(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=f"no tables and no report to write to {out}"):
        evaluate_results_file(
            tmp_path / "absent.json",
            tmp_path / "absent.json",
            scoring=LVISScoring(class_agnostic=True),
            output_dir=str(out),
        )
    assert not out.exists()


@pytest.mark.usefixtures("no_charts")
def test_a_folder_holds_one_evaluation(tmp_path):
    data, results = federated_case(3)
    out = tmp_path / "out"

    def written(folder, tasks, report):
        truth, found = GroundTruthColumns.from_dataset(data), Detections.from_results(results)
        result = LVISScoring().score(truth, found, tasks, train_images={})
        result.write(str(folder), report=report)
        return {path.name for path in folder.iterdir()}

    before = written(out, ("segm", "bbox"), write_evaluation_report)
    assert {"longtail_segm.json", "longtail_bbox.json", "longtail.html"} < before
    of_others = ["per_category_sem_seg.csv", "metrics_sem_seg.json", "instances_predictions.npz"]
    for name in (*of_others, "per_category_segm.md"):
        (out / name).write_text("not of this evaluator")
    for task in ("bbox", "segm"):
        alone = written(tmp_path / task, (task,), None)
        assert written(out, (task,), None) == alone | {*of_others, "per_category_segm.md"}
    (out / "longtail.html").write_text("a page of the user's")
    written(out, ("bbox",), None)
    assert (out / "longtail.html").read_text() == "a page of the user's"


def test_the_report_writer_gets_the_analyses_masks_first_and_the_images(tmp_path):
    data, results = federated_case(3)
    scoring, written = LVISScoring(), []
    result = scoring.score(
        GroundTruthColumns.from_dataset(data),
        Detections.from_results(results),
        ("segm", "bbox"),
        train_images={},
    )
    result.write(
        str(tmp_path),
        report=lambda *given, **options: written.append((given, options)),
        image_root="images",
    )
    ((path, analyses), options) = written[0]
    assert path == str(tmp_path / "longtail.html")
    assert [analysis.task for analysis in analyses] == ["segm", "bbox"]
    in_order = sorted(data["images"], key=lambda image: image["id"])
    assert options == {"images": in_order, "image_root": "images"}
    assert analyses[1].metrics == result.metrics["bbox"]
    assert analyses[1].categories == result.categories["bbox"]
    assert not (tmp_path / "longtail.html").exists()


def test_write_evaluation_report_can_be_the_report_writer(saved, tmp_path):
    annotations, results, _ = saved
    out = str(tmp_path / "out")
    evaluate_results_file(results, annotations, output_dir=out, report=write_evaluation_report)
    assert "Boxes: metrics" in (tmp_path / "out" / "longtail.html").read_text()


def test_analyses_are_computed_on_request():
    data, results = federated_case(3)
    given = (GroundTruthColumns.from_dataset(data), Detections.from_results(results), ("bbox",))
    assert LVISScoring().score(*given, train_images={}, analyze=False).analyses == []
