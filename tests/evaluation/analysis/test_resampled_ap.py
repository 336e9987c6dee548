"""The AP of resampled images against the evaluation of images that are really copied."""

import copy

import numpy as np
import pytest

from d2_seesaw.evaluation.analysis.resampled_ap import (
    CountedObjects,
    RankedMatches,
    resample_weights,
)
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns
from d2_seesaw.evaluation.lvis.metrics import match_detections, scores_of_matches
from d2_seesaw.evaluation.predictions.detections import Detections
from d2_seesaw.evaluation.predictions.limits import DetectionLimits
from tests.evaluation.lvis_data import random_data


def federated_data(seed):
    """Return federated data with ignored objects, and detections without ties in an image."""
    data, found = random_data(seed, num_images=12)
    rng = np.random.default_rng(seed)
    for image in data["images"]:
        image["id"] *= 10  # leaves room for the ids of copies
    for annotation in data["annotations"]:
        annotation["image_id"] *= 10
        if rng.random() < 0.1:
            annotation["ignore"] = 1
    results = [
        {**r, "image_id": 10 * r["image_id"], "score": float(rng.random())}
        for d in found
        for r in d.as_lvis("segm")
    ]
    boxes = [b for d in found for b in d.bboxes]
    return data, [{**r, "bbox": b} for r, b in zip(results, boxes, strict=True)]


def copied(data, results, weights):
    """Return the data with each image as often as its weight says, the copies side by side."""
    new = {"categories": data["categories"], "images": [], "annotations": []}
    new_results = []
    for image, weight in zip(data["images"], weights.tolist(), strict=True):
        for i in range(weight):
            new["images"].append({**copy.deepcopy(image), "id": image["id"] + i})
            for annotation in data["annotations"]:
                if annotation["image_id"] == image["id"]:
                    number = len(new["annotations"]) + 1
                    new["annotations"].append(
                        {**annotation, "id": number, "image_id": image["id"] + i}
                    )
            new_results += [
                {**r, "image_id": image["id"] + i} for r in results if r["image_id"] == image["id"]
            ]
    return new, new_results


def matched(data, results, task):
    truth = GroundTruthColumns.from_dataset(data).of_task(task)
    found = Detections.from_results(results)
    return truth, match_detections(truth, found, task, limits=DetectionLimits())


def resampled(data, results, task, weights):
    truth, matches = matched(data, results, task)
    numbers = CountedObjects.from_ground_truth(truth).numbers(weights)
    ranked = RankedMatches.from_matches(matches, len(truth.image_ids))
    return ranked.average_precision(weights, numbers)


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(2))
def test_the_ap_of_a_resample_is_that_of_images_that_are_really_copied(seed, task):
    data, results = federated_data(seed)
    weights = resample_weights(np.arange(len(data["images"])), 4, np.random.default_rng(seed))
    weights[0] = 1
    weights[1] = [2, 1] + 10 * [0]
    found = resampled(data, results, task, weights)
    for ap, counts in zip(found, weights, strict=True):
        expected = scores_of_matches(*matched(*copied(data, results, counts), task)).category_ap
        np.testing.assert_allclose(ap, expected, rtol=0, atol=1e-9)
    assert np.isnan(found).any()
    assert np.nanmax(found) > 20


def test_ties_between_images_are_ranked_as_in_the_evaluation():
    data, found = random_data(3, num_images=12)
    results = [r for d in found for r in d.as_lvis("segm")]
    assert len({r["score"] for r in results}) < 12
    ap = resampled(data, results, "segm", np.ones((1, 12), np.int32))[0]
    np.testing.assert_allclose(
        ap, scores_of_matches(*matched(data, results, "segm")).category_ap, rtol=0, atol=1e-9
    )


def test_blocks_of_resamples_do_not_change_the_result(monkeypatch):
    data, results = federated_data(0)
    weights = resample_weights(np.arange(12), 7, np.random.default_rng(0))
    whole = resampled(data, results, "bbox", weights)
    monkeypatch.setattr("d2_seesaw.evaluation.analysis.resampled_ap._ELEMENTS_PER_BLOCK", 1)
    np.testing.assert_array_equal(resampled(data, results, "bbox", weights), whole)


def test_each_resample_has_as_many_images_as_the_split():
    weights = resample_weights(np.arange(50), 20, np.random.default_rng(0))
    assert (weights.sum(axis=1) == 50).all()
    assert weights.min() == 0
    assert weights.var() == pytest.approx(1, rel=0.2)  # a binomial of 50 draws


def test_without_detections_the_ap_is_zero_and_without_objects_missing():
    data, _ = federated_data(1)
    empty = [{"image_id": 1000, "category_id": 1, "score": 0.5, "bbox": [0, 0, 1, 1]}]
    ap = resampled(data, empty, "bbox", np.stack([np.ones(12, np.int32), np.zeros(12, np.int32)]))
    assert (ap[0] == 0).all()
    assert np.isnan(ap[1]).all()
