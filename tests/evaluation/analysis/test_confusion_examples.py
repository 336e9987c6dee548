"""Selection of example objects, compared with a loop over all objects."""

import json

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from d2_seesaw.evaluation.analysis import ConfusionExample, LongTailAnalysis
from d2_seesaw.evaluation.analysis.confusion import confusions_with_more_frequent
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns
from d2_seesaw.evaluation.predictions.detections import Detections
from d2_seesaw.evaluation.predictions.limits import DetectionLimits
from d2_seesaw.evaluation.scoring import TaskEvaluation
from d2_seesaw.evaluation.tables import category_results
from tests.evaluation.federated_cases import results_of_task
from tests.evaluation.labeled_objects import confused_case, label_one_by_one
from tests.evaluation.lvis_data import SIZE, add_object, dataset


def analysis_of(data, results, task="bbox", limit=300):
    evaluation = TaskEvaluation(
        ground_truth=GroundTruthColumns.from_dataset(data),
        detections=Detections.from_results(results),
        task=task,
        official=False,
        limits=DetectionLimits(per_image=limit),
        class_agnostic=False,
    )
    scores = evaluation.scores()
    return evaluation.analysis(
        scores.metrics, category_results(evaluation.ground_truth.table, scores, {})
    )


def ids(examples):
    return [(e.category_id, e.predicted_id) for e in examples]


def examples_one_by_one(data, names, pairs, score):
    """Select two objects of each pair, then missed objects, as literally as possible."""
    named = [(a, names[a["id"]]) for a in data["annotations"] if names.get(a["id"])]
    examples = []
    for category, by in pairs:
        pair_matches = [
            (a, r) for a, r in named if (a["category_id"], r["category_id"]) == (category, by)
        ]
        pair_matches.sort(key=lambda m: -m[1][score])
        examples += [
            ConfusionExample(category, by, a["image_id"], a["bbox"], r["bbox"], r[score])
            for a, r in pair_matches[:2]
        ]
    rare = {c["id"] for c in data["categories"] if c["frequency"] == "r"}
    missed = [
        a
        for a in data["annotations"]
        if a["id"] in names and names[a["id"]] is None and a["category_id"] in rare
    ]
    missed.sort(key=lambda a: -a["area"])
    return examples + [
        ConfusionExample(a["category_id"], None, a["image_id"], a["bbox"], None, None)
        for a in missed[:8]
    ]


@pytest.mark.parametrize("tied", [(), ("tied scores",)])
@pytest.mark.parametrize(
    ("fields", "task", "score", "compared"),
    [
        ("bbox", "bbox", "score", "bbox"),
        ("both", "segm", "mask_score", "bbox"),
        ("segm", "segm", "mask_score", "segm"),
    ],
)
def test_equals_a_loop_over_all_objects(fields, task, score, compared, tied):
    confused_and_missed = [0, 0]
    for seed in range(14):
        data, results = confused_case(seed, "other area field", *tied)
        given = results if fields == "both" else results_of_task(results, fields)
        analysis = analysis_of(data, given, task, limit=30)
        groups = {c["id"]: c["frequency"] for c in data["categories"]}
        pairs = [
            (p.category.category_id, p.predicted.category_id)
            for p in confusions_with_more_frequent(analysis)
        ]
        pairs = [p for group in "rc" for p in pairs if groups[p[0]] == group]
        names = label_one_by_one(data, results, score, compared, 30)
        expected = examples_one_by_one(data, names, pairs, score)
        assert ids(analysis.examples) == ids(expected)
        for ours, theirs in zip(analysis.examples, expected, strict=True):
            assert ours.image_id == theirs.image_id
            assert ours.box == pytest.approx(theirs.box)
            assert ours.score == (None if theirs.score is None else pytest.approx(theirs.score))
            if theirs.predicted_box is None:
                assert ours.predicted_box is None
            elif fields == "segm":
                x, y, w, h = theirs.predicted_box
                edges = [round(v) for v in (x, y, x + w, y + h)]  # edges of the mask
                left, top, right, bottom = edges
                assert ours.predicted_box == [left, top, right - left, bottom - top]
            else:
                assert ours.predicted_box == pytest.approx(theirs.predicted_box)
            confused_and_missed[ours.predicted_id is None] += 1
    assert min(confused_and_missed) > 5, confused_and_missed


def rows_of_objects(groups, numbers, taken_for):
    """Build ``numbers[i]`` objects of category ``i + 1``, each alone in its image.

    Each has a detection of category ``taken_for``. Sizes and scores grow within a category.
    """
    data = dataset(groups, range(1, 1 + sum(numbers)))
    results, image_id = [], 0
    for category, number in enumerate(numbers, start=1):
        for i in range(number):
            image_id += 1
            add_object(data, image_id, category, [10, 10, 40 + i, 40])
            results.append(
                {"image_id": image_id, "category_id": taken_for, "score": 0.5 + i / 100}
                | {"bbox": [10, 10, 40 + i, 36]}
            )
    return data, results


def test_sixteen_rare_pairs_leave_eight_to_common_pairs_with_more_objects():
    numbers = [*range(1, 21), *range(21, 41), 0]
    data, results = rows_of_objects("r" * 20 + "c" * 20 + "f", numbers, taken_for=41)
    examples = analysis_of(data, results).examples
    rare, common = range(20, 4, -1), range(40, 32, -1)  # most objects first
    assert ids(examples) == [(k, 41) for k in (*rare, *common) for _ in range(2)]
    assert [e.score for e in examples[:2]] == pytest.approx([0.69, 0.68])
    assert [e.box[2] for e in examples[:2]] == [59, 58]
    assert len(examples) == 48


def test_common_pairs_fill_the_places_that_rare_pairs_leave():
    numbers = [2] * 3 + [3] * 30 + [0]
    data, results = rows_of_objects("rrr" + "c" * 30 + "f", numbers, taken_for=34)
    pairs = list(dict.fromkeys(ids(analysis_of(data, results).examples)))
    assert pairs == [(k, 34) for k in range(1, 25)]


def test_pairs_of_frequent_categories_and_of_unknown_groups_are_not_shown():
    data, results = rows_of_objects(["f", "n/a", "f"], [3, 3, 0], taken_for=3)
    analysis = analysis_of(data, results)
    assert len(confusions_with_more_frequent(analysis)) == 2
    assert analysis.examples == []


def test_the_largest_missed_objects_of_rare_categories_are_shown_last():
    data, results = rows_of_objects("rcf", [1, 0, 0], taken_for=3)
    data["images"] += dataset("", range(50, 62))["images"]
    for i in range(12):
        add_object(data, 50 + i, 1, [0, 0, 10, 10], area=[5, 9][i % 2])
    add_object(data, 61, 1, [50, 50, 90, 90], ignore=1)
    add_object(data, 61, 2, [50, 50, 90, 90])
    found = analysis_of(data, results).examples
    assert ids(found) == [(1, 3)] + [(1, None)] * 8
    assert [e.image_id for e in found[1:]] == [51, 53, 55, 57, 59, 61, 50, 52]


def test_an_ignored_object_is_not_an_example():
    data, results = rows_of_objects("rf", [1, 0], taken_for=2)
    data["annotations"][0]["ignore"] = 1
    assert analysis_of(data, results).examples == []


def test_among_equal_scores_the_first_objects_in_the_file_are_shown():
    data, results = rows_of_objects("rf", [6, 0], taken_for=2)
    for result in results:
        result["score"] = 0.5
    for order in (results, results[::-1]):
        assert [e.image_id for e in analysis_of(data, order).examples] == [1, 2]


@pytest.mark.parametrize("name", [int, "image {}".format])
def test_image_ids_keep_value_and_type_in_json(name):
    data, results = rows_of_objects("rf", [2, 0], taken_for=2)
    for record in (*data["annotations"], *results):
        record["image_id"] = name(record["image_id"])
    for image in data["images"]:
        image["id"] = name(image["id"])
    analysis = analysis_of(data, results)
    again = LongTailAnalysis.from_json(json.loads(json.dumps(analysis.to_json())))
    assert again.examples == analysis.examples
    assert [e.image_id for e in again.examples] == [name(2), name(1)]
    assert {type(e.image_id) for e in analysis.examples} == {type(name(1))}


def test_a_detection_without_a_box_gets_the_box_of_its_mask():
    data, results = rows_of_objects("rf", [1, 0], taken_for=2)
    mask = np.zeros((SIZE, SIZE), dtype=np.uint8, order="F")
    mask[11:49, 12:50] = 1
    rle = mask_utils.encode(mask)
    del results[0]["bbox"]
    results[0]["segmentation"] = {"size": [SIZE, SIZE], "counts": rle["counts"].decode()}
    (example,) = analysis_of(data, results, "segm").examples
    assert example.predicted_box == [12, 11, 38, 38]


def test_without_detections_all_objects_are_missed():
    data, _ = rows_of_objects("rf", [3, 2], taken_for=2)
    assert ids(analysis_of(data, []).examples) == [(1, None)] * 3
