import itertools

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from d2_seesaw.data.rle import results_of_task
from d2_seesaw.evaluation.predictions import detections
from d2_seesaw.evaluation.predictions.detections import (
    EMPTY,
    Detections,
    MaskColumns,
    batched,
)
from tests.evaluation.federated_cases import federated_case


@pytest.fixture
def results():
    return federated_case(0, "real boxes")[1]


def with_mask_scores(results):
    return [r | {"mask_score": r["score"] / 2} for r in results]


@pytest.mark.parametrize("prepare", [list, with_mask_scores])
def test_results_come_back_as_they_were(results, prepare):
    results = prepare(results)
    columns = Detections.from_results(results)
    assert list(columns.results()) == results
    assert list(columns.results(block=3)) == results
    assert len(columns) == len(results)
    assert columns.tasks == ("bbox", "segm")


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_results_of_a_task_have_its_score_and_shape(results, task):
    results = with_mask_scores(results)
    expected = results_of_task(results, task)
    if task == "bbox":
        expected = [{k: v for k, v in r.items() if k != "segmentation"} for r in expected]
    columns = Detections.from_results(results)
    assert list(columns.results(task)) == expected
    assert columns.scores_of(task).tolist() == [r["score"] for r in expected]


def test_float32_values_are_written_as_torch_writes_them():
    columns = Detections(np.array([1]), np.array([2]), np.array([0.1], dtype=np.float32))
    assert list(columns.results()) == [
        {"image_id": 1, "category_id": 2, "score": float(np.float32(0.1))}
    ]


@pytest.mark.parametrize("prepare", [list, with_mask_scores])
def test_arrays_come_back_as_they_were(results, prepare):
    results = prepare(results)
    arrays = Detections.from_results(results).arrays()
    assert all(array.dtype != object for array in arrays.values())
    assert list(Detections.from_arrays(arrays).results()) == results


def test_rows_can_be_taken(results):
    rows = np.array([4, 0, 2])
    taken = Detections.from_results(with_mask_scores(results)).take(rows)
    assert list(taken.results()) == [with_mask_scores(results)[i] for i in rows]


@pytest.mark.parametrize("block", [1, 2, 100])
def test_masks_can_be_taken_in_any_order_and_more_than_once(block, monkeypatch):
    monkeypatch.setattr(detections, "_MASKS_PER_BLOCK", block)
    lengths = [3, 0, 7, 1]
    rles = [{"size": [i, 9], "counts": bytes(range(n))} for i, n in enumerate(lengths)]
    masks = MaskColumns.from_rles(rles)
    for rows in ([2, 0, 0, 1, 3], [1], [], [1, 1], [0, 1, 2, 3]):
        taken = masks.take(np.array(rows, dtype=int))
        expected = MaskColumns.from_rles([rles[i] for i in rows])
        for name in ("sizes", "lengths", "counts"):
            np.testing.assert_array_equal(getattr(taken, name), getattr(expected, name))
            assert getattr(taken, name).dtype == getattr(expected, name).dtype


def test_parts_are_joined_in_order_and_empty_ones_do_not_matter(results):
    parts = [Detections.from_results(r) for r in (results[:2], [], results[2:])]
    assert list(Detections.concatenate(parts).results()) == results
    assert len(Detections.concatenate([EMPTY, EMPTY])) == 0
    assert EMPTY.tasks == ()


def test_parts_without_mask_scores_get_those_of_the_boxes(results):
    mixed = [*with_mask_scores(results[:2]), *results[2:]]
    parts = [Detections.from_results(mixed[:2]), Detections.from_results(mixed[2:])]
    joined = Detections.concatenate(parts)
    for columns in (joined, Detections.from_results(mixed)):
        expected = [r.get("mask_score", r["score"]) for r in mixed]
        assert columns.scores_of("segm").tolist() == expected


def test_parts_with_and_without_masks_are_refused(results):
    boxes = [{k: v for k, v in r.items() if k != "segmentation"} for r in results]
    parts = [Detections.from_results(results), Detections.from_results(boxes)]
    with pytest.raises(ValueError, match="Some of the detections have boxes or masks"):
        Detections.concatenate(parts)


@pytest.mark.parametrize("key", ["image_id", "category_id", "score", "bbox", "segmentation"])
def test_a_field_that_some_detections_lack_is_named(results, key):
    del results[1][key]
    with pytest.raises(ValueError, match=f"1 of {len(results)} detections have no '{key}'"):
        Detections.from_results(results)


def test_a_polygon_is_refused(results):
    results[0]["segmentation"] = [[0, 0, 5, 0, 5, 5]]
    with pytest.raises(ValueError, match=r"must be a run-length encoding.*got \[\[0, 0"):
        Detections.from_results(results)


def test_runs_that_are_not_compressed_are_compressed():
    runs = {"size": [4, 3], "counts": [2, 5, 5]}
    masks = MaskColumns.from_rles([runs, runs])
    expected = np.zeros(12, dtype=np.uint8)
    expected[2:7] = 1
    for rle in masks.rles(slice(None)):
        np.testing.assert_array_equal(mask_utils.decode(rle).reshape(-1, order="F"), expected)


def test_batches_hold_all_items():
    assert list(batched(itertools.chain(range(5)), 2)) == [[0, 1], [2, 3], [4]]
