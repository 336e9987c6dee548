"""Kinds of errors: their literal definition, totals, and independence of low scores."""

import copy
from collections import Counter

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from d2_seesaw.evaluation.analysis import Confusion, ConfusionMatrix
from d2_seesaw.evaluation.analysis.confusion import Assignment, object_confusions
from d2_seesaw.evaluation.analysis.error_kinds import KINDS, error_kinds
from d2_seesaw.evaluation.analysis.judging import JudgedDataset
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns
from d2_seesaw.evaluation.predictions.detections import Detections
from d2_seesaw.evaluation.predictions.limits import DetectionLimits
from d2_seesaw.evaluation.scoring import LVISScoring
from tests.evaluation import lvis_data
from tests.evaluation.federated_cases import area, shape
from tests.evaluation.labeled_objects import confused_case, label_one_by_one

SCORES = {"bbox": "score", "segm": "mask_score"}
TRAITS = ("not exhaustive", "iou at threshold")
LIMIT = 30


def iou(result, there, task):
    return mask_utils.iou(shape(result, task), shape(there, task), [0])[0, 0]


def kinds_one_by_one(data, results, task):
    """Apply the definition as literally as possible; return the kind of each result."""
    score, kinds = SCORES[task], ["not judged"] * len(results)
    known = {c["id"] for c in data["categories"]}
    for image in data["images"]:
        mine = [(r, row) for row, r in enumerate(results) if r["image_id"] == image["id"]]
        mine = sorted(mine, key=lambda m: (-m[0][score], m[1]))[:LIMIT]
        objects = [a for a in data["annotations"] if a["image_id"] == image["id"] and a["area"] > 0]
        verified = {a["category_id"] for a in objects} | set(image["neg_category_ids"])
        matched = set()
        for result, row in mine:
            category = result["category_id"]
            if category in known & verified and area(result, task) > 0:
                own = [o for o in objects if o["category_id"] == category]
                kinds[row] = kind_of(result, own, objects, matched, image, task)
    return kinds


def kind_of(result, own, objects, matched, image, task):
    ious = [iou(result, o, task) for o in own]
    free = [
        (not o.get("ignore"), value, place)
        for place, (o, value) in enumerate(zip(own, ious, strict=True))
        if value >= 0.5 and o["id"] not in matched
    ]
    if free:
        counts, _, place = max(free)
        matched.add(own[place]["id"])
        return "right" if counts else "not judged"
    if result["category_id"] in image["not_exhaustive_category_ids"]:
        return "not judged"
    if max(ious, default=0) >= 0.5:
        return "duplicate"
    boxes = [(iou(result, o, "bbox"), o["category_id"] == result["category_id"]) for o in objects]
    highest = max(boxes, default=(0, False))
    if highest[0] >= 0.5 and not highest[1]:
        return "confused"
    return "localization" if highest[0] >= 0.5 or max(ious, default=0) >= 0.1 else "background"


def judged(data, results, task, limit=LIMIT):
    ground_truth = GroundTruthColumns.from_dataset(copy.deepcopy(data)).of_task(task)
    detections = Detections.from_results(results)
    limits = DetectionLimits(per_image=limit)
    return ground_truth, detections, error_kinds(ground_truth, detections, task, limits=limits)


@pytest.mark.parametrize("task", SCORES)
def test_kinds_of_detections_equal_their_literal_definition(task):
    seen = Counter()
    for seed in range(14):
        data, results = confused_case(seed, *TRAITS)
        expected = kinds_one_by_one(data, results, task)
        assert judged(data, results, task)[2].detections.tolist() == expected, seed
        seen.update(expected)
    assert min(seen[kind] for kind in KINDS if kind != "missed") > 5


@pytest.mark.parametrize("task", SCORES)
def test_kinds_and_labels_of_objects_equal_the_confusion_analysis(task):
    for seed in range(5):
        data, results = confused_case(seed, *TRAITS)
        ground_truth, detections, kinds = judged(data, results, task)
        labels = Assignment.of_detections(
            ground_truth, detections, task, limits=DetectionLimits(per_image=LIMIT)
        ).labels()
        totals = Counter()
        for confusion in object_confusions(ground_truth, labels):
            wrong = "missed" if confusion.predicted_id is None else "confused"
            own = confusion.predicted_id == confusion.category_id
            totals["right" if own else wrong] += confusion.objects
        counted = Counter(kinds.objects.tolist())
        del counted["not judged"]
        assert counted == totals
        names = label_one_by_one(data, results, SCORES[task], "bbox", LIMIT)
        for row, annotation_id in enumerate(ground_truth.table.annotation_id.tolist()):
            if (result := names.get(annotation_id)) is not None:
                assert results[kinds.labels[row]] is result
            else:
                assert kinds.labels[row] == -1


def test_a_confused_detection_names_the_object_of_another_category():
    for seed in range(5):
        ground_truth, detections, kinds = judged(*confused_case(seed, *TRAITS), "bbox")
        table = ground_truth.table
        confused = kinds.detections == "confused"
        assert (kinds.confused_with[~confused] == -1).all()
        rows = kinds.confused_with[confused]
        ids = np.array([c["id"] for c in table.categories])[table.category[rows]]
        images = np.array([i["id"] for i in table.images])[table.image[rows]]
        assert (ids != detections.category_ids[confused]).all()
        assert (images == detections.image_ids[confused]).all()


@pytest.mark.parametrize("task", SCORES)
def test_without_low_scores_the_other_kinds_stay_and_objects_become_missed(task):
    for seed in range(5):
        data, results = confused_case(seed, *TRAITS)
        data_set, floor = _dataset(data, results, task), 0.5
        kept = [r for r in results if r[SCORES[task]] >= floor]
        cut = _dataset(data, kept, task)
        for image in range(len(data["images"])):
            assert cut.found(image) == data_set.found(image, floor)
            assert [o.kind for o in cut.objects(image)] == [
                o.kind_at(floor, is_object=True) for o in data_set.objects(image)
            ]


def _dataset(data, results, task):
    known = {c["id"] for c in data["categories"]}
    for category in data["categories"]:
        category["name"] = f"name {category['id']}"
    table = GroundTruthColumns.from_dataset(copy.deepcopy(data)).table
    results = [r for r in results if r["category_id"] in known]
    return JudgedDataset.judge(
        table, Detections.from_results(results), task, DetectionLimits(per_image=LIMIT)
    )


@pytest.mark.parametrize(("task", "kind"), [("bbox", "right"), ("segm", "localization")])
def test_a_right_box_with_a_wrong_mask_is_badly_localized(task, kind):
    data = lvis_data.dataset("f")
    lvis_data.add_object(data, 1, 1, [20, 20, 80, 80])
    mask = np.zeros((lvis_data.SIZE, lvis_data.SIZE), np.uint8)
    mask[95:100, 95:100] = 1  # outside of the mask of the object, inside of its box
    rle = mask_utils.encode(np.asfortranarray(mask))
    shape = {"size": rle["size"], "counts": rle["counts"].decode()}
    result = {"image_id": 1, "category_id": 1, "bbox": [20, 20, 80, 80], "segmentation": shape}
    _, _, kinds = judged(data, [{**result, "score": 0.9}], task)
    assert kinds.detections.tolist() == [kind]
    assert kinds.objects.tolist() == ["right"]  # objects are labeled by boxes


@pytest.mark.parametrize("box", [[70, 70, 20, 8], [0, 0, 0, 0]], ids=["elsewhere", "without area"])
def test_a_right_mask_with_a_wrong_box_labels_its_object_and_is_not_false(box):
    data = lvis_data.dataset("ff")
    for category, place in ((1, [20, 20, 30, 30]), (2, [60, 20, 30, 30])):
        lvis_data.add_object(data, 1, category, place)
    results = []
    for object_, score in zip(data["annotations"], (0.9, 0.8), strict=True):
        found = {"image_id": 1, "category_id": object_["category_id"], "score": score}
        (rle,) = mask_utils.frPyObjects(object_["segmentation"], lvis_data.SIZE, lvis_data.SIZE)
        mask = {"size": rle["size"], "counts": rle["counts"].decode()}
        results.append({**found, "bbox": object_["bbox"], "segmentation": mask})
    results[0]["bbox"] = box
    ground_truth, detections, kinds = judged(data, results, "segm")
    assert kinds.detections.tolist() == kinds.objects.tolist() == ["right", "right"]
    assert kinds.labels.tolist() == [0, 1]
    scored = LVISScoring().score(ground_truth, detections, ["bbox", "segm"], train_images={})
    assert scored.metrics["segm"]["AP50"] == pytest.approx(100)
    (segm,) = (analysis for analysis in scored.analyses if analysis.task == "segm")
    right = [Confusion(1, 1, 1), Confusion(2, 2, 1)]
    assert (segm.confusions, segm.matrix) == (right, ConfusionMatrix(right, []))
