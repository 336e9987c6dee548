import math

import pytest
import torch
from detectron2.modeling.box_regression import Box2BoxTransform

from d2_seesaw.modeling.roi_heads import TwoSidedBox2BoxTransform

WEIGHTS = (10.0, 10.0, 5.0, 4.0)
BOX = torch.tensor([[10.0, 20.0, 1010.0, 2020.0]])


def size(boxes):
    return [(boxes[0, 2] - boxes[0, 0]).item(), (boxes[0, 3] - boxes[0, 1]).item()]


def test_a_box_shrinks_by_no_more_than_it_may_grow():
    transform = TwoSidedBox2BoxTransform(WEIGHTS)
    smallest = transform.apply_deltas(torch.tensor([[0.0, 0.0, -100.0, -100.0]]), BOX)
    # mmdet: wh_ratio_clip = 16 / 1000.
    assert size(smallest) == pytest.approx([1000 * 0.016, 2000 * 0.016], rel=1e-4)
    largest = transform.apply_deltas(torch.tensor([[0.0, 0.0, 100.0, 100.0]]), BOX)
    assert size(largest) == pytest.approx([1000 / 0.016, 2000 / 0.016], rel=1e-4)


def test_each_side_is_limited_after_its_own_weight():
    within = [5 * math.log(0.017), 4 * math.log(0.017)]
    boxes = TwoSidedBox2BoxTransform(WEIGHTS).apply_deltas(torch.tensor([[0.0, 0.0, *within]]), BOX)
    assert size(boxes) == pytest.approx([17, 34], rel=1e-4)


@pytest.mark.parametrize("boxes_each", [1, 7])
def test_moderate_deltas_are_decoded_as_by_detectron2(boxes_each):
    boxes = torch.rand(20, 4) * 50
    boxes[:, 2:] += boxes[:, :2] + 1
    deltas = torch.randn(20, 4 * boxes_each) * 5
    ours, host = TwoSidedBox2BoxTransform(WEIGHTS), Box2BoxTransform(WEIGHTS)
    torch.testing.assert_close(
        ours.apply_deltas(deltas, boxes), host.apply_deltas(deltas, boxes), rtol=0, atol=0
    )
    torch.testing.assert_close(ours.get_deltas(boxes, boxes + 1), host.get_deltas(boxes, boxes + 1))


def test_shifts_are_not_limited():
    boxes = TwoSidedBox2BoxTransform(WEIGHTS).apply_deltas(torch.tensor([[-900.0, 0, 0, 0]]), BOX)
    assert boxes[0, 0] == 10 - 90 * 1000


def test_the_deltas_given_are_left_alone_and_none_are_fine():
    deltas = torch.full((1, 4), -100.0)
    TwoSidedBox2BoxTransform(WEIGHTS).apply_deltas(deltas, BOX)
    assert (deltas == -100).all()
    empty = TwoSidedBox2BoxTransform(WEIGHTS).apply_deltas(torch.zeros(0, 8), torch.zeros(0, 4))
    assert empty.shape == (0, 8)
