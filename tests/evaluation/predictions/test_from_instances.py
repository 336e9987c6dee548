"""A model's output as columns, with masks of the image and masks on boxes."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances, ROIMasks
from pycocotools import mask as mask_utils

from d2_seesaw.evaluation import encode_masks
from d2_seesaw.evaluation.predictions.detections import Detections, mask_rles

CATEGORIES = {0: 7, 1: 40, 2: 1000}


@pytest.fixture
def found():
    instances = Instances((30, 40))
    instances.pred_boxes = Boxes(torch.tensor([[1.0, 2, 11, 22], [5, 5, 39, 9]]))
    instances.scores = torch.tensor([0.75, 0.5])
    instances.pred_classes = torch.tensor([2, 0])
    return instances


def test_columns_are_the_detections(found):
    columns = Detections.from_instances(found, 12, CATEGORIES)
    assert columns.image_ids.tolist() == [12, 12]
    assert columns.category_ids.tolist() == [1000, 7]
    assert columns.scores.tolist() == [0.75, 0.5]
    assert columns.boxes.tolist() == [[1, 2, 10, 20], [5, 5, 34, 4]]
    assert columns.masks is None
    assert columns.mask_scores is None


def test_masks_of_the_image_and_their_scores(found):
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
    assert mask_rles(found) == expected
    assert Detections.from_instances(found, 12, CATEGORIES).masks.rles(slice(None)) == expected


def test_no_detections(found):
    columns = Detections.from_instances(found[:0], 12, CATEGORIES)
    assert len(columns.scores) == 0
    assert columns.boxes.shape == (0, 4)
