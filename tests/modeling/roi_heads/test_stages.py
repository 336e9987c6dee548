import pytest
import torch
from detectron2.structures import Boxes, Instances

from d2_seesaw.modeling.roi_heads.stages import Stage, fuse, refined_boxes, without_objects
from tests.modeling.roi_heads import parts
from tests.modeling.roi_heads.parts import C


def rois(number):
    image = Instances((parts.SIZE, parts.SIZE))
    image.proposal_boxes = Boxes(parts.boxes(number))
    return image


def stage(predictor, proposals):
    features = torch.randn(sum(map(len, proposals)), parts.WIDTH)
    with torch.no_grad():
        predictor.bbox_pred.weight.normal_(std=0.2)
        logits, deltas = predictor(features)
    return Stage(predictor, (logits * 5, deltas), proposals)


def test_class_agnostic_boxes_are_decoded_from_the_deltas():
    seen = stage(parts.box_predictor(), [rois(3), rois(0), rois(2)])
    boxes = refined_boxes(seen, C)
    deltas = seen.predictions[1]
    proposals = torch.cat([p.proposal_boxes.tensor for p in seen.proposals])
    expected = seen.predictor.box2box_transform.apply_deltas(deltas, proposals)
    assert [b.shape for b in boxes] == [(3, 4), (0, 4), (2, 4)]
    torch.testing.assert_close(torch.cat(boxes), expected)


def box_of_class(seen, roi, label):
    """Compute the class-specific box of one RoI by its formula."""
    proposals = torch.cat([p.proposal_boxes.tensor for p in seen.proposals])
    deltas = seen.predictions[1][roi, 4 * label : 4 * label + 4]
    return seen.predictor.box2box_transform.apply_deltas(deltas[None], proposals[roi][None])[0]


def test_inference_uses_the_box_of_the_highest_scoring_class():
    seen = stage(parts.box_predictor(agnostic=False), [rois(3), rois(0), rois(2)])
    with torch.no_grad():
        seen.predictions[0][1, C + 1] = 30  # background would score highest
    boxes = torch.cat(refined_boxes(seen, C))
    best = seen.predictions[0][:, :C].argmax(dim=1)
    assert len(set(best.tolist())) > 1
    expected = torch.stack([box_of_class(seen, r, label) for r, label in enumerate(best.tolist())])
    torch.testing.assert_close(boxes, expected)


def test_training_uses_the_box_of_the_true_class():
    image = rois(4)
    image.gt_classes = torch.tensor([2, C, 0, -1])  # the second is background, the last ignored
    seen = stage(parts.box_predictor(agnostic=False), [image])
    best = seen.predictions[0][:, :C].argmax(dim=1).tolist()
    classes = [2, best[1], 0, best[3]]
    assert classes != best
    (boxes,) = refined_boxes(seen, C)
    expected = torch.stack([box_of_class(seen, r, label) for r, label in enumerate(classes)])
    torch.testing.assert_close(boxes, expected)


def test_refined_ground_truth_boxes_are_excluded():
    image = rois(4)
    image.gt_boxes = Boxes(image.proposal_boxes.tensor.clone())
    image.gt_boxes.tensor[1] += 0.5
    image.gt_classes = torch.tensor([0, 2, C, 1])  # a background RoI cannot be an appended object
    boxes = torch.arange(16.0).view(4, 4)
    nothing = rois(2)
    nothing.gt_classes = torch.tensor([C, C])
    kept, all_of_them = without_objects([boxes, boxes[:2]], [image, nothing], C)
    assert torch.equal(kept, boxes[[1, 2]])
    assert torch.equal(all_of_them, boxes[:2])


@pytest.fixture
def three_stages():
    proposals = [rois(3), rois(0), rois(2)]
    return [stage(parts.box_predictor(k), proposals) for k in range(3)]


def test_logits_are_averaged_before_scoring(three_stages):
    boxes, scores = fuse(three_stages, "logits")
    z = sum(s.predictions[0] for s in three_stages) / 3
    p = z[:, :C].softmax(1) * z[:, C:].softmax(1)[:, :1]
    expected = torch.cat([p, z[:, C:].softmax(1)[:, 1:]], dim=1)
    assert [len(s) for s in scores] == [3, 0, 2]
    torch.testing.assert_close(torch.cat(scores), expected)
    torch.testing.assert_close(torch.cat(boxes), torch.cat(refined_boxes(three_stages[-1], C)))


def test_half_precision_logits_are_averaged_in_float32(three_stages):
    half = [
        s._replace(predictions=(s.predictions[0].half(), s.predictions[1])) for s in three_stages
    ]
    _, scores = fuse(half, "logits")
    z = sum(s.predictions[0].float() for s in half) / 3
    expected = three_stages[0].predictor.cls_loss.scores(z)
    torch.testing.assert_close(torch.cat(scores), expected)


def test_probabilities_are_averaged_after_scoring(three_stages):
    _, scores = fuse(three_stages, "probabilities")
    stage_scores = [s.predictor.cls_loss.scores(s.predictions[0]) for s in three_stages]
    torch.testing.assert_close(torch.cat(scores), sum(stage_scores) / 3)
    _, other = fuse(three_stages, "logits")
    assert (torch.cat(scores) - torch.cat(other)).abs().max() > 0.05
