import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances, ROIMasks
from pycocotools import mask as mask_utils

from d2_seesaw.evaluation import encode_masks
from d2_seesaw.evaluation.predictions.detections import (
    EMPTY,
    Detections,
    concatenate,
)
from tests.evaluation.federated_cases import federated_case


@pytest.fixture
def results():
    return federated_case(0, "real boxes")[1]


def with_mask_scores(results):
    return [r | {"mask_score": r["score"] / 2} for r in results]


def with_keypoints(results):
    return [r | {"keypoints": [1.5, 2, r["score"]]} for r in results]


@pytest.mark.parametrize("prepare", [list, with_mask_scores, with_keypoints])
def test_results_survive_the_conversion_to_columns(results, prepare):
    results = prepare(results)
    columns = Detections.from_results(results)
    assert list(columns.results()) == results
    assert list(columns.results(block=3)) == results
    assert len(columns) == len(results)
    assert columns.tasks == ("bbox", "segm")


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_results_of_a_task_have_its_score_and_shape(results, task):
    """Leave out the boxes of masks, whose area would replace the area of the mask."""
    results = with_mask_scores(results)
    score, shape = {"bbox": ("score", "bbox"), "segm": ("mask_score", "segmentation")}[task]
    expected = [
        {k: r[k] for k in ("image_id", "category_id", shape)} | {"score": r[score]} for r in results
    ]
    columns = Detections.from_results(results)
    assert list(columns.results(task)) == expected
    assert columns.scores_of(task).tolist() == [r["score"] for r in expected]


@pytest.mark.parametrize("prepare", [list, with_mask_scores, with_keypoints])
def test_detections_survive_the_conversion_to_arrays(results, prepare):
    results = prepare(results)
    arrays = Detections.from_results(results).arrays()
    assert all(array.dtype != object for array in arrays.values())
    assert list(Detections.from_arrays(arrays).results()) == results


def test_rows_can_be_selected(results):
    rows = np.array([4, 0, 2])
    taken = Detections.from_results(with_mask_scores(results)).take(rows)
    assert list(taken.results()) == [with_mask_scores(results)[i] for i in rows]


def test_parts_are_joined_in_order_and_empty_ones_do_not_matter(results):
    parts = [Detections.from_results(r) for r in (results[:2], [], results[2:])]
    assert list(Detections.concatenate(parts).results()) == results
    assert len(Detections.concatenate([EMPTY, EMPTY])) == 0
    assert EMPTY.tasks == ()


def test_parts_without_mask_scores_get_the_scores_of_the_boxes(results):
    mixed = [*with_mask_scores(results[:2]), *results[2:]]
    parts = [Detections.from_results(mixed[:2]), Detections.from_results(mixed[2:])]
    joined = Detections.concatenate(parts)
    for columns in (joined, Detections.from_results(mixed)):
        expected = [r.get("mask_score", r["score"]) for r in mixed]
        assert columns.scores_of("segm").tolist() == expected


@pytest.mark.parametrize("key", ["image_id", "category_id", "score", "bbox", "segmentation"])
def test_a_field_that_some_detections_lack_is_named(results, key):
    del results[1][key]
    with pytest.raises(ValueError, match=f"1 of {len(results)} detections have no '{key}'"):
        Detections.from_results(results)


# A model's output

CATEGORIES = {0: 7, 1: 40, 2: 1000}


@pytest.fixture
def found():
    instances = Instances((30, 40))
    instances.pred_boxes = Boxes(torch.tensor([[1.0, 2, 11, 22], [5, 5, 39, 9]]))
    instances.scores = torch.tensor([0.75, 0.5])
    instances.pred_classes = torch.tensor([2, 0])
    return instances


def test_columns_hold_the_fields_of_the_instances(found):
    columns = Detections.from_instances(found, 12, CATEGORIES)
    assert columns.image_ids.tolist() == [12, 12]
    assert columns.category_ids.tolist() == [1000, 7]
    assert columns.scores.tolist() == [0.75, 0.5]
    assert columns.boxes.tolist() == [[1, 2, 10, 20], [5, 5, 34, 4]]
    assert columns.masks is None
    assert columns.mask_scores is None


def test_image_masks_are_encoded_and_keep_their_scores(found):
    found.pred_masks = torch.rand(2, 30, 40) > 0.5
    found.mask_scores = torch.tensor([0.25, 0.125])
    columns = Detections.from_instances(found, 12, CATEGORIES)
    assert columns.mask_scores.tolist() == [0.25, 0.125]
    decoded = [mask_utils.decode(rle) for rle in columns.masks.rles(slice(None))]
    np.testing.assert_array_equal(np.stack(decoded), found.pred_masks.numpy())


def test_masks_on_boxes_are_encoded_in_their_windows(found):
    probabilities = torch.rand(2, 28, 28)
    found.pred_masks = ROIMasks(probabilities)
    expected = encode_masks(probabilities, found.pred_boxes, (30, 40))
    assert Detections.from_instances(found, 12, CATEGORIES).masks.rles(slice(None)) == expected


# Columns


def column_parts():
    return [
        {"ids": np.array(["a", "b"]), "boxes": np.arange(8.0).reshape(2, 4)},
        {"ids": np.zeros(0, "U1"), "boxes": np.zeros((0, 4), np.float32)},
        {"ids": np.array(["long"]), "boxes": np.ones((1, 4), np.float32)},
    ]


def test_concatenation_equals_numpys_in_values_and_dtypes():
    joined = concatenate(column_parts())
    for name in ("ids", "boxes"):
        expected = np.concatenate([part[name] for part in column_parts()])
        assert joined[name].dtype == expected.dtype
        np.testing.assert_array_equal(joined[name], expected)
