import itertools

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from d2_seesaw.evaluation.lvis import mask_overlaps, selection
from d2_seesaw.evaluation.lvis import overlaps as overlaps_module
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns
from d2_seesaw.evaluation.lvis.overlaps import overlaps
from d2_seesaw.evaluation.lvis.selection import scored_detections
from d2_seesaw.evaluation.predictions.detections import Detections
from d2_seesaw.evaluation.predictions.limits import DetectionLimits
from tests.evaluation.federated_cases import area, federated_case, shape
from tests.evaluation.lvis_data import add_object, dataset

both_tasks = pytest.mark.parametrize("task", ["bbox", "segm"])
either_way = pytest.mark.parametrize("class_agnostic", [False, True])
TRAITS = ("real boxes", "tied scores", "many in a pair", "rle", "crowd", "not exhaustive")
MORE_TRAITS = ("unknown category", "unverified category", "zero area", "equal ious")


@pytest.fixture(params=["pycocotools", "numba"], autouse=True)
def _functions(request, monkeypatch):
    compiled = None
    if request.param == "numba":
        compiled = pytest.importorskip("d2_seesaw.data.rle.compiled", exc_type=ImportError)
    monkeypatch.setattr(mask_overlaps, "compiled_functions", lambda masks=0: compiled)


def scored_and_edges(data, results, task, *, class_agnostic=False):
    ground_truth = GroundTruthColumns.from_dataset(data)
    detections = Detections.from_results(results)
    limits = DetectionLimits(per_image=None)
    agnostic = {"class_agnostic": class_agnostic}
    scored = scored_detections(ground_truth, detections, task, limits=limits, **agnostic)
    return scored, overlaps(ground_truth, detections, scored, task, **agnostic)


def verified(data, result):
    image = next(i for i in data["images"] if i["id"] == result["image_id"])
    objects = [a for a in data["annotations"] if a["image_id"] == image["id"] and a["area"] > 0]
    present = {a["category_id"] for a in objects}
    return result["category_id"] in present | set(image["neg_category_ids"])


@both_tasks
@either_way
@pytest.mark.parametrize("seed", range(2))
def test_edges_equal_the_ious_of_pycocotools(seed, class_agnostic, task):
    data, results = federated_case(seed, *TRAITS, *MORE_TRAITS)
    objects = [a for a in data["annotations"] if a["area"] > 0]
    scored, edges = scored_and_edges(data, results, task, class_agnostic=class_agnostic)
    expected = {}
    for d, row in enumerate(scored.rows.tolist()):
        for g, there in enumerate(objects):
            keys = ("image_id",) if class_agnostic else ("image_id", "category_id")
            if all(results[row][k] == there[k] for k in keys):
                iou = mask_utils.iou(shape(results[row], task), shape(there, task), [0])[0, 0]
                if iou >= 0.5:
                    expected[d, g] = iou
    places = zip(edges.detections.tolist(), edges.objects.tolist(), strict=True)
    found = dict(zip(places, edges.ious.tolist(), strict=True))
    assert len(found) == len(edges.ious) > 10
    assert found == expected


@both_tasks
@pytest.mark.parametrize("seed", range(2))
def test_only_detections_with_an_area_and_a_verified_category_are_scored(seed, task):
    data, results = federated_case(seed, *TRAITS, *MORE_TRAITS)
    known = {c["id"] for c in data["categories"]}
    expected = [
        i
        for i, r in enumerate(results)
        if r["category_id"] in known and verified(data, r) and area(r, task) > 0
    ]
    scored, _ = scored_and_edges(data, results, task)
    assert sorted(scored.rows.tolist()) == expected
    assert 0 < len(expected) < len(results)
    rows = [results[i] for i in scored.rows.tolist()]
    assert scored.areas.tolist() == [area(r, task) for r in rows]
    assert scored.scores.tolist() == [r["score"] for r in rows]
    loose = {i["id"]: i["not_exhaustive_category_ids"] for i in data["images"]}
    is_open = [r["category_id"] in loose[r["image_id"]] for r in rows]
    assert scored.in_open_pair.tolist() == is_open
    assert len(set(is_open)) == 2


@pytest.mark.parametrize("seed", range(2))
def test_unverified_detections_of_known_categories_are_scored_on_request(seed):
    data, results = federated_case(seed, *TRAITS, *MORE_TRAITS)
    known = {c["id"] for c in data["categories"]}
    expected = [
        i for i, r in enumerate(results) if r["category_id"] in known and area(r, "bbox") > 0
    ]
    scored = scored_detections(
        GroundTruthColumns.from_dataset(data),
        Detections.from_results(results),
        "bbox",
        limits=DetectionLimits(per_image=None),
        class_agnostic=True,
        verified_only=False,
    )
    assert sorted(scored.rows.tolist()) == expected
    assert not all(verified(data, results[i]) for i in expected)
    assert len(expected) < len(results)


@either_way
def test_scored_detections_are_sorted_by_pair_and_descending_score(class_agnostic):
    data, results = federated_case(3, *TRAITS)
    scored, _ = scored_and_edges(data, results, "bbox", class_agnostic=class_agnostic)
    order = []
    for row in scored.rows.tolist():
        r = results[row]
        pair = r["image_id"] if class_agnostic else (r["category_id"], r["image_id"])
        order.append((pair, -r["score"], r["category_id"], row))
    assert order == sorted(order)
    pairs = [o[0] for o in order]
    same_pair = np.array([a == b for a, b in itertools.pairwise(pairs)])
    np.testing.assert_array_equal(np.diff(scored.pairs) == 0, same_pair)


def test_edges_are_sorted_by_detection_then_iou_then_object():
    data, results = federated_case(1, "equal ious", "many in a pair")
    _, edges = scored_and_edges(data, results, "bbox", class_agnostic=True)
    rows = list(
        zip(edges.detections.tolist(), edges.ious.tolist(), edges.objects.tolist(), strict=True)
    )
    # Class-agnostic objects of an image are ordered by category, then as in the file.
    object_categories = [a["category_id"] for a in data["annotations"]]
    order = [(d, iou, object_categories[g], g) for d, iou, g in rows]
    assert order == sorted(order)
    ties = [a[:2] == b[:2] for a, b in itertools.pairwise(rows)]
    assert any(ties), "the case must have equal IoUs"


@both_tasks
def test_the_block_size_does_not_change_the_result(monkeypatch, task):
    case = federated_case(2, *TRAITS)
    scored, edges = scored_and_edges(*case, task)
    monkeypatch.setattr(overlaps_module, "_CANDIDATES_PER_BLOCK", 2)
    monkeypatch.setattr(mask_overlaps, "_MASKS_PER_CALL", 3)
    again, same_edges = scored_and_edges(*case, task)
    for one, other in ((scored, again), (edges, same_edges)):
        for name, value in vars(one).items():
            np.testing.assert_array_equal(vars(other)[name], value)


def test_an_overlap_of_exactly_one_half_is_an_edge_and_less_is_not():
    data = dataset("f")
    add_object(data, 1, 1, [0, 0, 40, 40])
    boxes = [[0, 0, 40, 20], [0, 0, 40, 19], [50, 50, 40, 40]]
    results = [{"image_id": 1, "category_id": 1, "bbox": b, "score": 0.5} for b in boxes]
    _, edges = scored_and_edges(data, results, "bbox")
    assert (edges.detections.tolist(), edges.ious.tolist()) == ([0], [0.5])


def test_a_detection_of_an_unknown_image_is_refused():
    data = dataset("f", image_ids=(4, 9))
    results = [{"image_id": 7, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 0.5}]
    with pytest.raises(ValueError, match=r"Image id 7 of a detection .* start as \[4, 9\]"):
        scored_and_edges(data, results, "bbox")


@pytest.mark.parametrize("cells", [0, 7, 10_000])
def test_the_number_of_pairs_in_a_call_does_not_change_the_ious_of_masks(monkeypatch, cells):
    case = federated_case(4, "many in a pair", "equal ious", "rle")
    _, edges = scored_and_edges(*case, "segm")
    monkeypatch.setattr(mask_overlaps, "_CELLS_PER_CALL", cells)
    _, again = scored_and_edges(*case, "segm")
    for name, value in vars(edges).items():
        np.testing.assert_array_equal(vars(again)[name], value)
    assert len(edges.ious) > 10


def test_a_mask_of_exactly_half_the_area_of_an_object_is_an_edge():
    # The ratio of the areas, from which masks are dropped before they are compared, is 0.5.
    data = dataset("f")
    square = add_object(data, 1, 1, [0, 0, 40, 40])
    square["segmentation"] = [[0, 0, 40, 0, 40, 40, 0, 40]]
    boxes = np.array([[0, 0, 40, 20], [0, 0, 40, 19]], dtype=float)
    rles = mask_utils.frPyObjects(boxes, *(data["images"][0][k] for k in ("height", "width")))
    results = [{"image_id": 1, "category_id": 1, "segmentation": r, "score": 0.5} for r in rles]
    _, edges = scored_and_edges(data, results, "segm")
    assert (edges.detections.tolist(), edges.ious.tolist()) == ([0], [0.5])


def test_pairs_that_are_too_many_for_a_table_are_searched(monkeypatch):
    case = federated_case(5, *TRAITS, *MORE_TRAITS)
    scored, _ = scored_and_edges(*case, "bbox")
    monkeypatch.setattr(selection, "_LARGEST_TABLE", 0)
    again, _ = scored_and_edges(*case, "bbox")
    for name, value in vars(scored).items():
        np.testing.assert_array_equal(vars(again)[name], value)
