"""Tests of labels of anchors and RoIs. The recorded ones are those of mmdet 3.3.0."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.layers import Conv2d
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from d2_seesaw.modeling import MaxIoUMatcher, SampledRPNHead
from tests.checkpoint.test_mmdet_parity import ARCHITECTURES
from tests.checkpoint.test_mmdet_training_step import SIZES, config, recorded

C = 37


def rpn_of(name):
    return instantiate(config(name).model.proposal_generator)


def anchors_of(rpn, height, width):
    """Return the anchors of a padded batch."""
    maps = [torch.zeros(1, 1, height // s, width // s) for s in (4, 8, 16, 32)]
    maps.append(maps[-1][..., ::2, ::2])
    return rpn.anchor_generator(maps)


def targets_of(name, image):
    boxes = torch.from_numpy(recorded(name)[f"objects {image}"])
    return Instances(SIZES[name][image], gt_boxes=Boxes(boxes))


def assigned_by(rpn, anchors, targets):
    """Return the number of each anchor's object, 0 for background, -1 without sampling."""
    rpn._subsample_labels = lambda labels: labels
    (labels,), (boxes,) = rpn.label_and_sample_anchors(anchors, [targets])
    same = (boxes[:, None] == targets.gt_boxes.tensor).all(dim=2)
    # The second of two equal boxes is not told from the first one.
    return torch.where(labels == 1, same.int().argmax(dim=1) + 1, labels.long())


@pytest.mark.parametrize("image", [0, 1])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_anchor_has_the_label_and_the_object_of_mmdet(name, image):
    rpn, targets = rpn_of(name), targets_of(name, image)
    anchors = anchors_of(rpn, 96, 160)
    expected = torch.from_numpy(recorded(name)[f"anchors assigned {image}"]).long()
    boxes = targets.gt_boxes.tensor
    first = (boxes[:, None] == boxes).all(dim=2).int().argmax(dim=1) + 1
    expected = torch.where(expected > 0, first[expected - 1], expected.clamp(min=-1))
    assert (expected > 0).any()
    assert assigned_by(rpn, anchors, targets).tolist() == expected.tolist()
    # Each part of the switch is needed for that.
    rpn.anchor_matcher = Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True)
    assert assigned_by(rpn, anchors, targets).tolist() != expected.tolist()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_detectron2_considers_other_anchors(name):
    rpn, targets = rpn_of(name), targets_of(name, 1)
    expected = torch.from_numpy(recorded(name)["anchors assigned 1"]).long().clamp(-1, 1)
    rpn._subsample_labels = lambda labels: labels
    (labels,), _ = RPN.label_and_sample_anchors(rpn, anchors_of(rpn, 96, 160), [targets])
    assert labels.tolist() != expected.tolist()


@pytest.mark.parametrize("side", [8, 12, 16])
def test_small_objects_have_no_positive_anchors(side):
    rpn = rpn_of("mask_rcnn")
    corners = torch.rand(20, 2) * 140
    targets = Instances((160, 160), gt_boxes=Boxes(torch.cat([corners, corners + side], dim=1)))
    anchors = anchors_of(rpn, 160, 160)
    assert assigned_by(rpn, anchors, targets).max() == 0


def test_an_image_without_valid_anchors_has_no_loss():
    rpn = rpn_of("cascade_mask_rcnn")
    anchors = anchors_of(rpn, 32, 32)
    targets = [Instances((20, 20), gt_boxes=Boxes(torch.tensor([[1.0, 1.0, 9.0, 9.0]])))]
    labels, boxes = rpn.label_and_sample_anchors(anchors, targets)
    assert labels[0].tolist() == [-1] * 258
    sizes = [len(a) for a in anchors]
    logits = [torch.zeros(1, n) for n in sizes]
    with EventStorage(0):
        losses = rpn.losses(anchors, logits, labels, [torch.zeros(1, n, 4) for n in sizes], boxes)
    assert [float(loss) for loss in losses.values()] == [0, 0]


def test_the_best_boxes_of_an_object_are_its_own_from_the_floor_on():
    iou = torch.tensor(
        [
            [0.9, 0.4, 0.1, 0.0, 0.0],
            [0.8, 0.4, 0.4, 0.0, 0.3],
            [0.0, 0.2, 0.0, 0.29, 0.0],
        ]
    )
    # Object 1 has its best box in common with object 0, and loses its second best ones.
    matches, labels = MaxIoUMatcher([0.3, 0.7], [0, -1, 1], low_quality_floor=0.3)(iou)
    assert labels.tolist() == [1, -1, -1, 0, -1]
    assert matches[0] == 1
    matches, labels = MaxIoUMatcher([0.3, 0.7], [0, -1, 1], low_quality_floor=0.2)(iou)
    assert labels.tolist() == [1, -1, -1, 1, -1]
    assert matches[[0, 3]].tolist() == [1, 2]
    matches, labels = MaxIoUMatcher([0.3, 0.7], [0, -1, 1])(iou)
    assert (labels.tolist(), matches[0]) == ([1, -1, -1, 0, -1], 0)


def test_several_best_boxes_are_all_positive():
    _, labels = MaxIoUMatcher([0.3, 0.7], [0, -1, 1], low_quality_floor=0.3)(
        torch.tensor([[0.4, 0.4, 0.35, 0.1]])
    )
    assert labels.tolist() == [1, 1, -1, 0]


def test_appended_objects_are_matched_to_themselves_only():
    # Two proposals, then three objects, the last two of which have the same box.
    iou = torch.tensor(
        [
            [0.6, 0.1, 1.0, 0.5, 0.5],
            [0.7, 0.0, 0.5, 1.0, 1.0],
            [0.7, 0.0, 0.5, 1.0, 1.0],
        ]
    )
    matcher = MaxIoUMatcher([0.5], [0, 1], low_quality_floor=0.5, objects_appended=True)
    matches, labels = matcher(iou)
    assert labels.tolist() == [1, 0, 1, 1, 1]
    assert matches[[0, 2, 3, 4]].tolist() == [2, 0, 1, 2]
    # Detectron2 takes the first object, and loses the last one.
    detectron2_matches, _ = Matcher([0.5], [0, 1], allow_low_quality_matches=False)(iou)
    assert detectron2_matches[[0, 2, 3, 4]].tolist() == [1, 0, 1, 1]


def test_images_without_objects_or_proposals_are_matched():
    matcher = MaxIoUMatcher([0.5], [0, 1], low_quality_floor=0.5, objects_appended=True)
    matches, labels = matcher(torch.zeros(0, 4))
    assert (matches.tolist(), labels.tolist()) == ([0] * 4, [0] * 4)
    matches, labels = matcher(torch.eye(2))
    assert (matches.tolist(), labels.tolist()) == ([0, 1], [1, 1])
    with pytest.raises(ValueError, match="the 3 objects among the boxes, got 2 boxes"):
        matcher(torch.zeros(3, 2))


def losses_of_anchors(head, maps, sampled):
    outputs = [x.permute(0, 2, 3, 1).flatten() for part in head(maps) for x in part]
    return torch.cat([x[sampled[: len(x)]] for x in outputs]).square().sum()


@pytest.mark.parametrize("conv_dims", [[-1], [-1, -1]])
def test_the_sampled_head_is_detectron2s_with_the_same_gradients(conv_dims, monkeypatch):
    maps = [torch.randn(2, 8, side, side, requires_grad=True) for side in (12, 6)]
    options = {"in_channels": 8, "num_anchors": 3, "conv_dims": conv_dims}
    detectron2s, head = StandardRPNHead(**options), SampledRPNHead(**options)
    head.load_state_dict(detectron2s.state_dict())
    sampled = torch.rand(2 * 12 * 12 * 12) < 0.004
    sampled[5] = True
    expected = losses_of_anchors(detectron2s, maps, sampled)
    known = torch.autograd.grad(expected, [*maps, *detectron2s.parameters()])
    monkeypatch.setattr(Conv2d, "forward", None)
    found = losses_of_anchors(head, maps, sampled)
    assert torch.equal(found, expected)
    gradients = torch.autograd.grad(found, [*maps, *head.parameters()])
    torch.testing.assert_close(gradients, known, atol=1e-7, rtol=1e-5)
