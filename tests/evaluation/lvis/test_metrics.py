"""Precision and recall on random federated data, equal to those of lvis-api bit for bit."""

import copy
import json
import math
from collections import defaultdict

import numpy as np
import pytest

from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns
from d2_seesaw.evaluation.lvis.metrics import (
    match_detections,
    precision_and_recall,
    scores_of_matches,
)
from d2_seesaw.evaluation.lvis.rules import METRICS
from d2_seesaw.evaluation.predictions.detections import Detections
from d2_seesaw.evaluation.predictions.limits import DetectionLimits
from tests.evaluation.federated_cases import (
    TRAITS,
    assert_equal_curves,
    federated_case,
    official_evaluation,
    our_curves,
)
from tests.evaluation.lvis_data import ImageDetections, add_object, dataset, official_metrics

both_tasks = pytest.mark.parametrize("task", ["bbox", "segm"])
# "more than 300" exceeds a limit, too: the one of LVIS.
NOT_TOGETHER = ("one image", "one category", "no detections", "over the limit")
ALL_AT_ONCE = [trait for trait in TRAITS if trait not in NOT_TOGETHER]
KINDS = (*TRAITS, "some", "all")


def limit_of(traits):
    return 12 if "over the limit" in traits else 300


def some_traits(seed):
    rng = np.random.default_rng(seed)
    return [trait for trait in TRAITS if rng.random() < 0.3]


@both_tasks
@pytest.mark.parametrize("trait", TRAITS)
def test_equals_lvis_on_data_with_one_trait(trait, task):
    for seed in (0, 1):
        data, results = federated_case(seed, trait)
        assert_equal_curves(data, results, task, limit_of([trait]))


@both_tasks
@pytest.mark.parametrize("seed", range(4))
def test_equals_lvis_on_data_with_all_traits(seed, task):
    data, results = federated_case(seed, *ALL_AT_ONCE)
    official = assert_equal_curves(data, results, task, limit_of(ALL_AT_ONCE))
    assert (official.eval["precision"] > 0).any(), "the case must be able to tell right from wrong"


@both_tasks
@pytest.mark.parametrize("seed", range(12))
def test_equals_lvis_on_data_with_some_traits(seed, task):
    traits = some_traits(seed)
    assert_equal_curves(*federated_case(seed, *traits), task, limit_of(traits))


@both_tasks
@pytest.mark.parametrize("seed", range(4))
def test_equals_lvis_if_class_agnostic(seed, task):
    traits = some_traits(seed)
    case = federated_case(seed, *traits)
    assert_equal_curves(*case, task, limit_of(traits), class_agnostic=True)


def slow_cases(kind):
    """Yield 40 random datasets of a kind with their traits; no two kinds share a seed."""
    first = 1000 + 40 * KINDS.index(kind)
    for seed in range(first, first + 40):
        traits = {"some": some_traits(seed), "all": ALL_AT_ONCE}.get(kind, [kind])
        yield federated_case(seed, *traits), traits


@pytest.mark.slow
@both_tasks
@pytest.mark.parametrize("class_agnostic", [False, True], ids=["categories", "agnostic"])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_lvis_on_1120_different_datasets(kind, class_agnostic, task):
    """Compare 40 datasets for each of 26 traits, 40 with some traits and 40 with nearly all."""
    for case, traits in slow_cases(kind):
        assert_equal_curves(*case, task, limit_of(traits), class_agnostic=class_agnostic)


@pytest.mark.slow
def test_the_1120_datasets_are_different():
    assert len(TRAITS) == 26
    texts = [json.dumps(case) for kind in KINDS for case, _ in slow_cases(kind)]
    assert len(texts) == len(set(texts)) == 1120


@pytest.mark.parametrize("seed", range(3))
def test_the_trait_more_than_300_exceeds_300_with_a_tie_at_the_cut(seed):
    _, results = federated_case(seed, "more than 300")
    scores = defaultdict(list)
    for result in results:
        scores[result["image_id"]].append(result["score"])
    crowded = [sorted(s, reverse=True) for s in scores.values() if len(s) > 300]
    assert crowded
    assert all(s[299] == s[300] for s in crowded)


@both_tasks
def test_every_metric_equals_that_of_lvis(task):
    data, results = federated_case(3, "tied scores", "not exhaustive", "many in a pair")
    official = official_evaluation(data, results, task)
    official.summarize()
    ground_truth = GroundTruthColumns.from_dataset(data)
    detections = Detections.from_results(results)
    matched = match_detections(ground_truth, detections, task, limits=DetectionLimits())
    ours = scores_of_matches(ground_truth, matched)
    expected = official_metrics(official, METRICS)
    assert ours.metrics == pytest.approx(expected, rel=0, abs=1e-9, nan_ok=True)


@both_tasks
def test_more_than_300_detections_with_ties_at_the_cut_are_cut_as_by_lvis(task):
    data, results = federated_case(7, "one image", "many in a pair")
    rng = np.random.default_rng(0)
    drawn = [results[i] for i in rng.integers(0, len(results), 600).tolist()]
    many = [r | {"score": round(rng.random(), 1)} for r in drawn]
    assert_equal_curves(data, many, task)
    scores = sorted((r["score"] for r in many), reverse=True)
    assert scores[299] == scores[300], "there must be a tie at the cut"
    uncut, cut = (our_curves(data, many, task, limit)[0] for limit in (None, 50))
    assert (uncut != cut).any()


@pytest.mark.parametrize("engine_id", [0, 5])
def test_an_object_is_found_with_any_annotation_id(engine_id):
    # The only intended difference: lvis treats a match with the id 0 as no match.
    data = dataset("f")
    add_object(data, 1, 1, [0, 0, 40, 40])["id"] = engine_id
    results = ImageDetections(1).add(1, [0, 0, 40, 40]).as_lvis("bbox")
    precision, recall = our_curves(data, results, "bbox")
    official = official_evaluation(data, results, "bbox").eval
    assert recall[0, 0, 0] == 1.0
    assert official["recall"][0, 0, 0] == (1.0 if engine_id else 0.0)
    assert precision[0, 0, 0, 0] == pytest.approx(1.0)


@both_tasks
def test_no_detections_score_zero_where_there_is_ground_truth(task):
    data = dataset("rcf")
    add_object(data, 1, 1, [0, 0, 20, 20])
    ground_truth = GroundTruthColumns.from_dataset(data)
    nothing = Detections.from_results([])
    matched = match_detections(ground_truth, nothing, task, limits=DetectionLimits())
    scores = scores_of_matches(ground_truth, matched)
    present = {"AP", "AP50", "AP75", "APs", "APr", "AR", "ARs", "ARr"}
    expected = {m: 0.0 if m in present else math.nan for m in METRICS}
    assert scores.metrics == pytest.approx(expected, nan_ok=True)


def test_float32_columns_score_like_the_dicts_made_from_them():
    data, results = federated_case(4, "real boxes", "tied scores")
    columns = Detections.from_results(results)
    columns = Detections(
        columns.image_ids,
        columns.category_ids,
        columns.scores.astype(np.float32),
        boxes=columns.boxes.astype(np.float32),
    )
    official = official_evaluation(data, list(columns.results()), "bbox").eval
    ground_truth = GroundTruthColumns.from_dataset(copy.deepcopy(data))
    matched = match_detections(ground_truth, columns, "bbox", limits=DetectionLimits())
    precision, _ = precision_and_recall(matched)
    np.testing.assert_array_equal(precision, official["precision"])


def test_annotations_are_not_modified():
    data, results = federated_case(5, "ignored")
    before = copy.deepcopy(data)
    GroundTruthColumns.from_dataset(data)
    our_curves(data, results, "segm")
    assert data == before


@pytest.mark.parametrize(("task", "missing"), [("bbox", "boxes"), ("segm", "masks")])
def test_detections_without_what_the_task_needs_are_refused(task, missing):
    data, results = federated_case(6)
    other = "bbox" if task == "bbox" else "segmentation"
    without = [{k: v for k, v in r.items() if k != other} for r in results]
    with pytest.raises(ValueError, match=f"'{task}' needs detections with {missing}"):
        our_curves(data, without, task)
