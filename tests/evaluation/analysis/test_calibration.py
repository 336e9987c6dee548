"""Calibration, compared with the matches of lvis-api and with closed forms."""

import logging
import math

import numpy as np
import pytest

from d2_seesaw.evaluation.analysis.calibration import CALIBRATION_BINS, reliability_by_group
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns
from d2_seesaw.evaluation.lvis.metrics import match_detections
from d2_seesaw.evaluation.predictions.detections import Detections
from d2_seesaw.evaluation.predictions.limits import DetectionLimits
from tests.evaluation.federated_cases import federated_case, official_evaluation
from tests.evaluation.lvis_data import add_object, dataset

TRAITS = ("ignored", "not exhaustive", "many in a pair", "zero area", "unverified category")
MORE_TRAITS = ("not exhaustive without object", "unknown category", "other area field")
BOX, ELSEWHERE = [10, 10, 40, 40], [80, 80, 30, 30]


def calibration_of(data, results, task="bbox", limit=300):
    """Return the reliability curves by group."""
    ground_truth = GroundTruthColumns.from_dataset(data)
    detections = Detections.from_results(results)
    limits = DetectionLimits(per_image=limit)
    matched = match_detections(ground_truth, detections, task, limits=limits)
    return {c.group: c for c in reliability_by_group(ground_truth, matched)}


def outcomes_of_lvis(data, results, task, limit):
    """Yield score, category and outcome of the detections that lvis counts at IoU 0.5."""
    official = official_evaluation(data, results, task, limit)
    for evaluated in official.eval_imgs:
        if evaluated is None or evaluated["area_rng"] != official.params.area_rng[0]:
            continue
        for d, score in enumerate(evaluated["dt_scores"]):
            if not evaluated["dt_ignore"][0][d]:
                yield score, evaluated["category_id"], evaluated["dt_matches"][0][d] > 0


def in_bins(outcomes):
    """Compute numbers, mean scores, precisions and the error in percent, bin by bin."""
    outcomes = list(outcomes)
    numbers, scores, precisions, error = [], [], [], 0.0
    for b in range(15):
        inside = [o for o in outcomes if b / 15 < o[0] <= (b + 1) / 15 or b == o[0] == 0]
        numbers.append(len(inside))
        scores.append(np.mean([o[0] for o in inside]) if inside else math.nan)
        precisions.append(np.mean([o[2] for o in inside]) if inside else math.nan)
        if inside:
            error += len(inside) / len(outcomes) * abs(precisions[-1] - scores[-1])
    return numbers, scores, precisions, 100 * error if outcomes else math.nan


@pytest.mark.parametrize("limit", [300, 8])
@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(3))
def test_equals_loops_over_the_matches_of_lvis(seed, task, limit):
    data, results = federated_case(seed, *TRAITS, *MORE_TRAITS)
    found = calibration_of(data, results, task, limit)
    outcomes = list(outcomes_of_lvis(data, results, task, limit))
    frequency = {c["id"]: c["frequency"] for c in data["categories"]}
    assert list(found) == ["all", "r", "c", "f"]
    for group, calibration in found.items():
        numbers, scores, precisions, error = in_bins(
            o for o in outcomes if group in ("all", frequency[o[1]])
        )
        assert calibration.detections == numbers
        assert calibration.mean_score == pytest.approx(scores, abs=1e-12, nan_ok=True)
        assert calibration.precision == pytest.approx(precisions, abs=1e-12, nan_ok=True)
        assert calibration.error == pytest.approx(error, abs=1e-10, nan_ok=True)
    assert {bool(o[2]) for o in outcomes} == {True, False}
    assert 0 < len(outcomes) < len(results)


def scene(scores, right, *, category=1):
    """Build an image for each detection, with an object if the detection is right."""
    data = dataset("rcf", range(1, len(scores) + 1))
    results = []
    for image, score, is_right in zip(data["images"], scores, right, strict=True):
        image["neg_category_ids"] = [] if is_right else [category]
        if is_right:
            add_object(data, image["id"], category, BOX)
        result = {"image_id": image["id"], "category_id": category}
        results.append(result | {"bbox": BOX, "score": score})
    return data, results


def test_scores_that_are_the_precision_have_no_error():
    scores = np.repeat([0.25, 0.5, 0.75, 1.0], 4).tolist()
    right = [True, *[False] * 3, *[True, False] * 2, *[True] * 3, False, *[True] * 4]
    found = calibration_of(*scene(scores, right))["all"]
    assert found.error == 0.0
    assert [n for n in found.detections if n] == [4, 4, 4, 4]
    assert [p for p in found.precision if p == p] == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(("score", "number_right"), [(0.9, 1), (0.3, 3), (0.999, 0), (0.05, 4)])
def test_the_error_of_one_bin_is_the_gap_between_precision_and_score(score, number_right):
    found = calibration_of(*scene([score] * 4, [i < number_right for i in range(4)]))
    assert found["all"].error == pytest.approx(100 * abs(number_right / 4 - score))
    assert found["r"].error == found["all"].error
    assert found["r"].detections == found["all"].detections


def test_errors_in_opposite_directions_do_not_cancel():
    found = calibration_of(*scene([0.9, 0.1], [False, True]))["all"]
    assert found.error == pytest.approx(90)


def test_bins_are_closed_on_the_right_and_the_first_includes_0():
    bounds = np.linspace(0, 1, CALIBRATION_BINS + 1).tolist()
    found = calibration_of(*scene(bounds, [True] * len(bounds)))["all"]
    assert found.detections == [2] + [1] * (CALIBRATION_BINS - 1)
    assert found.mean_score[1:] == bounds[2:]


def test_a_detection_counts_in_the_group_of_its_category():
    for category, group in enumerate("rcf", start=1):
        found = calibration_of(*scene([0.5, 0.6], [True, False], category=category))
        assert {g for g, c in found.items() if sum(c.detections)} == {"all", group}
        assert all(math.isnan(found[g].error) for g in "rcf" if g != group)


def test_of_two_detections_of_an_object_the_second_is_wrong():
    data, results = scene([0.5], [True])
    found = calibration_of(data, [*results, results[0] | {"score": 0.25}])["all"]
    assert found.precision[3] == 0.0
    assert found.precision[7] == 1.0


def test_ignored_and_possibly_unlabeled_detections_are_not_counted():
    data, results = scene([0.5], [True])
    data["annotations"][0]["ignore"] = 1
    assert sum(calibration_of(data, results)["all"].detections) == 0
    data["annotations"][0]["ignore"] = 0
    unmatched = results[0] | {"bbox": ELSEWHERE}
    assert sum(calibration_of(data, [unmatched])["all"].detections) == 1
    data["images"][0]["not_exhaustive_category_ids"] = [1]
    assert sum(calibration_of(data, [unmatched])["all"].detections) == 0
    assert calibration_of(data, results)["all"].precision[7] == 1.0


def test_a_wrong_detection_too_large_for_lvis_is_not_counted():
    data, results = scene([0.5, 0.5], [False, False])
    results[1]["bbox"] = [0, 0, 2e5, 1e5]
    assert sum(calibration_of(data, results)["all"].detections) == 1


def test_objects_of_any_size_are_matched():
    # With the area range of small objects, the second object would go to the first detection.
    data, results = scene([0.9], [True])
    add_object(data, 1, 1, [10, 10, 40, 24], area=500)
    found = calibration_of(data, [*results, results[0] | {"bbox": [10, 22, 40, 28], "score": 0.5}])
    assert found["all"].precision[13] == 1.0
    assert found["all"].precision[7] == 0.0


def test_the_matches_are_not_modified():
    data, results = scene([0.5], [True])
    data["annotations"][0]["ignore"] = 1
    ground_truth = GroundTruthColumns.from_dataset(data)
    detections = Detections.from_results(results)
    matched = match_detections(ground_truth, detections, "bbox", limits=DetectionLimits())
    first = reliability_by_group(ground_truth, matched)
    assert not matched.never_wrong[:, 0].any()
    assert repr(reliability_by_group(ground_truth, matched)) == repr(first)


def test_categories_of_unknown_frequency_count_only_in_all():
    data, results = scene([0.5], [True])
    data["categories"][0]["frequency"] = "n/a"
    found = calibration_of(data, results)
    assert [sum(c.detections) for c in found.values()] == [1, 0, 0, 0]


def test_without_detections_there_is_no_error():
    data, _ = scene([0.5], [True])
    for calibration in calibration_of(data, []).values():
        assert calibration.detections == [0] * CALIBRATION_BINS
        assert np.isnan([calibration.error, *calibration.precision]).all()
        assert np.isnan(calibration.mean_score).all()


@pytest.mark.parametrize("score", [1.5, -0.01, math.inf, math.nan])
def test_scores_that_are_not_probabilities_have_no_calibration(score, caplog):
    data, results = scene([0.5, score], [True, True])
    with caplog.at_level(logging.WARNING):
        found = calibration_of(data, results)
    assert "are not probabilities, so there is no calibration" in caplog.text
    for calibration in found.values():
        assert calibration.detections == [0] * CALIBRATION_BINS
        assert math.isnan(calibration.error)


def test_scores_of_uncounted_detections_may_be_anything(caplog):
    data, results = scene([0.5], [True])
    unverified = results[0] | {"category_id": 2, "score": 7.0}
    assert sum(calibration_of(data, [*results, unverified])["all"].detections) == 1
    assert "probabilities" not in caplog.text


def test_the_order_of_detections_without_ties_does_not_matter():
    data, results = federated_case(4, *TRAITS)
    permuted = [results[i] for i in np.random.default_rng(0).permutation(len(results)).tolist()]
    first, second = calibration_of(data, results), calibration_of(data, permuted)
    for group, calibration in first.items():
        assert second[group].detections == calibration.detections
        assert second[group].precision == pytest.approx(calibration.precision, nan_ok=True)
        assert second[group].error == pytest.approx(calibration.error, nan_ok=True)
