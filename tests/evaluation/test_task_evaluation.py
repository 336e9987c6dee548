import json

import pytest

from d2_seesaw.evaluation import scoring
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns
from d2_seesaw.evaluation.predictions.detections import Detections
from d2_seesaw.evaluation.predictions.limits import DetectionLimits
from d2_seesaw.evaluation.scoring import TaskEvaluation
from d2_seesaw.evaluation.tables import category_results
from tests.evaluation.federated_cases import federated_case

TRAITS = ("not exhaustive", "many in a pair", "unverified category", "ignored")
both_tasks = pytest.mark.parametrize("task", ["bbox", "segm"])
ALL = {"limits": DetectionLimits(), "class_agnostic": False}


def evaluation_of(data, results, task="bbox", *, official=False, **options):
    return TaskEvaluation(
        ground_truth=GroundTruthColumns.from_dataset(data),
        detections=Detections.from_results(results),
        task=task,
        official=official,
        **ALL | options,
    )


def analysis_of(evaluation):
    scores = evaluation.scores()
    rows = category_results(evaluation.ground_truth.table, scores, {})
    return evaluation.analysis(scores.metrics, rows)


@both_tasks
@pytest.mark.parametrize("limits", [(300, None), (None, 15), (4, None)])
def test_both_engines_give_the_same_analysis(limits, task):
    case, limits = federated_case(8, *TRAITS), DetectionLimits(*limits)
    ours, theirs = (
        analysis_of(evaluation_of(*case, task, official=official, limits=limits)).to_json()
        for official in (False, True)
    )
    metrics = [analysis.pop("metrics") for analysis in (ours, theirs)]
    rows = [analysis.pop("categories") for analysis in (ours, theirs)]
    assert ours == theirs
    assert metrics[0] == pytest.approx(metrics[1], rel=0, abs=1e-9)
    for mine, official in zip(*rows, strict=True):
        assert mine == pytest.approx(official, rel=0, abs=1e-9)
    assert {c["group"] for c in ours["calibration"]} == {"all", "r", "c", "f"}
    assert ours["calibration"][0]["error"] > 0


@both_tasks
def test_an_analysis_describes_its_evaluation(task):
    data, results = federated_case(3)
    analysis = analysis_of(evaluation_of(data, results, task))
    assert analysis.task == task
    assert (analysis.images, analysis.detections) == (len(data["images"]), len(results))
    assert analysis.ground_truth == GroundTruthColumns.from_dataset(data).fingerprint()
    assert [c.category_id for c in analysis.categories] == [1, 2, 3, 4, 5]
    assert sum(c.objects for c in analysis.confusions) == len(data["annotations"])


def test_the_limits_apply_to_the_whole_analysis():
    data, results = federated_case(3, "many in a pair")
    few = {"limits": DetectionLimits(per_image=1)}
    every, limited = (analysis_of(evaluation_of(data, results, **o)) for o in ({}, few))
    assert limited.detections == every.detections
    assert sum(limited.calibration[0].detections) <= len(data["images"])
    assert sum(c.objects for c in limited.confusions if c.predicted_id) <= len(data["images"])
    assert sum(c.objects for c in every.confusions if c.predicted_id) > len(data["images"])


def test_detections_are_matched_once(monkeypatch):
    calls = []
    match = scoring.match_detections

    def counted(*args, **options):
        calls.append(args)
        return match(*args, **options)

    monkeypatch.setattr(scoring, "match_detections", counted)
    case = federated_case(3)
    evaluation = evaluation_of(*case)
    assert not calls
    analysis_of(evaluation)
    assert len(calls) == 1
    official = evaluation_of(*case, official=True)
    official.scores()
    assert len(calls) == 1, "the official scores need no arrays"
    assert json.dumps(analysis_of(official).to_json())
    assert len(calls) == 2
