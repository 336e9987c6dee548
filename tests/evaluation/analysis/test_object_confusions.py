"""Labels of objects, compared with a loop over images, detections and objects."""

from collections import Counter

import numpy as np
import pytest

from d2_seesaw.evaluation.analysis import Confusion
from d2_seesaw.evaluation.analysis.confusion import Assignment, object_confusions
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns
from d2_seesaw.evaluation.predictions.detections import Detections
from d2_seesaw.evaluation.predictions.limits import DetectionLimits
from tests.evaluation.federated_cases import box_rle, results_of_task
from tests.evaluation.labeled_objects import confused_case, label_one_by_one
from tests.evaluation.lvis_data import add_object, dataset


def confusions(data, results, task="bbox", limit=300):
    columns = GroundTruthColumns.from_dataset(data)
    found = Detections.from_results(results)
    limits = DetectionLimits(per_image=limit)
    return object_confusions(
        columns, Assignment.of_detections(columns, found, task, limits=limits).labels()
    )


def as_counts(found):
    assert len({(c.category_id, c.predicted_id) for c in found}) == len(found)
    return {(c.category_id, c.predicted_id): c.objects for c in found}


@pytest.mark.parametrize("limit", [300, 8])
@pytest.mark.parametrize("tied", [(), ("tied scores",)])
@pytest.mark.parametrize(
    ("fields", "task", "score", "compared"),
    [
        ("bbox", "bbox", "score", "bbox"),
        ("both", "bbox", "score", "bbox"),
        ("both", "segm", "mask_score", "bbox"),
        ("segm", "segm", "mask_score", "segm"),
    ],
)
def test_equals_a_loop_over_images_detections_and_objects(
    fields, task, score, compared, tied, limit
):
    outcomes = Counter()
    for seed in range(5):
        data, results = confused_case(seed, *tied)
        given = results if fields == "both" else results_of_task(results, fields)
        names = label_one_by_one(data, results, score, compared, limit)
        expected = Counter(
            (a["category_id"], (names[a["id"]] or {}).get("category_id"))
            for a in data["annotations"]
            if a["id"] in names
        )
        assert as_counts(confusions(data, given, task, limit)) == expected
        for (category, predicted), number in expected.items():
            outcome = "missed" if predicted is None else predicted == category
            outcomes[outcome] += number
    assert min(outcomes[o] for o in ("missed", True, False)) > 2, outcomes


@pytest.mark.parametrize("seed", range(3))
def test_confusions_are_sorted_and_sum_to_the_objects_of_each_category(seed):
    data, results = confused_case(seed)
    found = confusions(data, results)
    keys = [(c.category_id, c.predicted_id is None, c.predicted_id or 0) for c in found]
    assert keys == sorted(keys)
    sums = Counter()
    for confusion in found:
        sums[confusion.category_id] += confusion.objects
    assert sums == Counter(
        a["category_id"] for a in data["annotations"] if a["area"] > 0 and not a.get("ignore")
    )


def test_the_order_of_detections_without_ties_does_not_matter():
    data, results = confused_case(5)
    permuted = [results[i] for i in np.random.default_rng(0).permutation(len(results)).tolist()]
    assert confusions(data, permuted) == confusions(data, results)


def scene(*objects, groups="rcf"):
    data = dataset(groups)
    for category, bbox, *ignore in objects:
        add_object(data, 1, category, bbox, ignore=int(bool(ignore)))
    return data


def detection(category, bbox, score):
    return {"image_id": 1, "category_id": category, "bbox": bbox, "score": score}


BOX = [10, 10, 40, 40]
ONE_TENTH_LESS = [10, 10, 40, 36]


def test_the_highest_score_decides_even_if_the_correct_detection_fits_better():
    # Category 3 was not verified in the image: LVIS does not score its detection.
    data = scene((1, BOX))
    results = [detection(1, BOX, 0.6), detection(3, ONE_TENTH_LESS, 0.7)]
    assert confusions(data, results) == [Confusion(1, 3, 1)]
    results[0]["score"] = 0.8
    assert confusions(data, results) == [Confusion(1, 1, 1)]


def test_a_detection_of_a_neighbor_does_not_label_an_object():
    shifted = [10, 18, 40, 40]  # IoU of 2 / 3 with the other object
    data = scene((1, BOX), (3, shifted))
    assert confusions(data, [detection(3, shifted, 0.9), detection(1, BOX, 0.2)]) == [
        Confusion(1, 1, 1),
        Confusion(3, 3, 1),
    ]
    assert confusions(data, [detection(3, shifted, 0.9)])[0] == Confusion(1, None, 1)


def test_a_detection_is_assigned_to_the_object_that_it_overlaps_most():
    data = scene((1, ONE_TENTH_LESS), (2, BOX))
    assert confusions(data, [detection(1, BOX, 0.9)]) == [Confusion(1, None, 1), Confusion(2, 1, 1)]


def test_among_equal_ious_the_object_of_the_same_category_is_labeled():
    data = scene((1, BOX), (2, BOX), (3, BOX))
    for own in (1, 2, 3):
        found = as_counts(confusions(data, [detection(own, BOX, 0.9)]))
        assert found == {(k, k if k == own else None): 1 for k in (1, 2, 3)}


def test_among_equal_ious_with_other_categories_the_last_object_is_labeled():
    data = scene((2, BOX), (1, BOX), groups="rcff")
    assert confusions(data, [detection(4, BOX, 0.9)]) == [Confusion(1, None, 1), Confusion(2, 4, 1)]


def test_an_ignored_object_takes_its_detections_and_is_not_counted():
    data = scene((1, BOX, "ignored"), (1, ONE_TENTH_LESS))
    assert confusions(data, [detection(1, BOX, 0.9)]) == [Confusion(1, None, 1)]
    assert confusions(data, [detection(1, ONE_TENTH_LESS, 0.9)]) == [Confusion(1, 1, 1)]
    only_ignored = scene((1, BOX, "ignored"))
    assert confusions(only_ignored, [detection(1, BOX, 0.9)]) == []


def test_an_object_too_large_for_lvis_is_not_counted():
    data = scene((1, BOX), (2, BOX))
    data["annotations"][0]["area"] = 2e10
    assert confusions(data, []) == [Confusion(2, None, 1)]


def test_an_overlap_of_less_than_one_half_labels_no_object():
    data = scene((1, BOX))
    assert confusions(data, [detection(1, [10, 10, 40, 20], 0.9)]) == [Confusion(1, 1, 1)]
    assert confusions(data, [detection(1, [10, 10, 40, 19], 0.9)]) == [Confusion(1, None, 1)]


def test_without_detections_all_objects_are_missed():
    assert confusions(scene((1, BOX), (1, BOX)), []) == [Confusion(1, None, 2)]


def test_among_equal_scores_the_lower_category_id_is_the_label():
    data = scene((1, BOX))
    results = [detection(3, BOX, 0.5), detection(2, BOX, 0.5)]
    assert confusions(data, results) == confusions(data, results[::-1]) == [Confusion(1, 2, 1)]


def test_masks_rank_by_their_own_scores():
    data = scene((1, BOX))
    results = [detection(1, BOX, 0.9), detection(2, BOX, 0.8) | {"mask_score": 0.95}]
    for result in results:
        result["segmentation"] = box_rle(BOX)
    assert confusions(data, results, "bbox") == [Confusion(1, 1, 1)]
    assert confusions(data, results, "segm") == [Confusion(1, 2, 1)]


def test_detections_beyond_the_limit_label_no_object():
    data = scene((1, BOX))
    results = [detection(2, [0, 100, 9, 9], 0.9), detection(1, BOX, 0.5)]
    assert confusions(data, results, limit=1) == [Confusion(1, None, 1)]
