import pickle

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from d2_seesaw.evaluation.predictions.gather import ProposalColumns, ProposalLog


def proposals_of(numbers, seed=0):
    torch.manual_seed(seed)
    for i, number in enumerate(numbers):
        proposals = Instances((100 + i, 200))
        proposals.proposal_boxes = Boxes(torch.rand(number, 4) * 50)
        proposals.objectness_logits = torch.randn(number)
        yield f"image {i}", proposals


def assert_same(found, expected):
    assert found["image_id"] == expected[0]
    assert found["proposals"].image_size == expected[1].image_size
    for of in (
        lambda proposals: proposals.proposal_boxes.tensor,
        lambda proposals: proposals.objectness_logits,
    ):
        torch.testing.assert_close(of(found["proposals"]), of(expected[1]), rtol=0, atol=0)


@pytest.mark.parametrize("images_per_block", [1, 2, 100])
@pytest.mark.parametrize("numbers", [[3, 0, 1, 12, 5], [100, 90, 80], [0], []])
def test_every_image_gets_its_own_proposals_in_each_iteration(numbers, images_per_block):
    log = ProposalLog(images_per_block=images_per_block)
    for image_id, proposals in proposals_of(numbers):
        log.append(image_id, proposals)
    for columns in (log.columns(), log.columns()):
        assert len(columns) == len(numbers)
        for _ in range(2):
            for found, expected in zip(columns, proposals_of(numbers), strict=True):
                assert_same(found, expected)


def test_images_can_be_added_after_reading_all():
    log = ProposalLog(images_per_block=2)
    for i, (image_id, proposals) in enumerate(proposals_of([1, 2, 3, 4])):
        log.append(image_id, proposals)
        assert len(log.columns()) == i + 1
        assert log.columns().numbers.tolist() == [1, 2, 3, 4][: i + 1]


def test_proposals_survive_the_conversion_to_arrays():
    log = ProposalLog()
    for image_id, proposals in proposals_of([3, 1]):
        log.append(image_id, proposals)
    arrays = log.columns().arrays()
    assert all(isinstance(a, np.ndarray) and a.dtype != object for a in arrays.values())
    for found, expected in zip(
        ProposalColumns.from_arrays(arrays), proposals_of([3, 1]), strict=True
    ):
        assert_same(found, expected)
    assert ProposalLog().columns().arrays() == {}


def test_boxes_of_an_image_are_pickled_without_those_of_the_others():
    log = ProposalLog()
    for image_id, proposals in proposals_of([1000, 1]):
        log.append(image_id, proposals)
    *_, last = log.columns()
    assert len(pickle.dumps(last["proposals"].proposal_boxes.tensor.numpy())) < 300
