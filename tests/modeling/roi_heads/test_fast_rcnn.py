import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from torch import nn

from d2_seesaw.layers import linear_classifier, normed_linear_classifier
from d2_seesaw.losses import FederatedLoss, FederatedSeesawLoss, SeesawLoss, SoftmaxLoss
from d2_seesaw.modeling.roi_heads import LossDrivenOutputLayers, TwoSidedBox2BoxTransform

C, D = 5, 16
BOX_OPTIONS = {"box2box_transform": Box2BoxTransform((10.0, 10.0, 5.0, 5.0))}


def seesaw_predictor(**options):
    return LossDrivenOutputLayers(
        ShapeSpec(channels=D),
        cls_score=normed_linear_classifier(),
        cls_loss=SeesawLoss(C),
        **BOX_OPTIONS,
        **options,
    )


def softmax_predictor(**options):
    return LossDrivenOutputLayers(
        ShapeSpec(channels=D),
        cls_score=linear_classifier(),
        cls_loss=SoftmaxLoss(C),
        **BOX_OPTIONS,
        **options,
    )


def image(labels, *, has_objects=True):
    proposals = Instances((64, 64))
    corner = torch.rand(len(labels), 2) * 30
    proposals.proposal_boxes = Boxes(torch.cat([corner, corner + 5 + torch.rand_like(corner)], 1))
    proposals.gt_classes = torch.tensor(labels, dtype=torch.int64)
    if has_objects:
        proposals.gt_boxes = Boxes(proposals.proposal_boxes.tensor + 1)
    return proposals


def batch():
    proposals = [image([0, 2, C, C]), image([C, C], has_objects=False), image([4, 4, 1])]
    return torch.randn(9, D), proposals


def test_the_loss_decides_the_number_of_logits():
    assert seesaw_predictor().cls_score.out_features == C + 2
    assert softmax_predictor().cls_score.out_features == C + 1


def test_softmax_gives_detectron2s_losses_and_detections(storage):
    ours = softmax_predictor(test_score_thresh=0.1)
    host = FastRCNNOutputLayers(
        ShapeSpec(channels=D), num_classes=C, test_score_thresh=0.1, **BOX_OPTIONS
    )
    with torch.no_grad():
        ours.cls_score.weight.mul_(100)  # away from uniform scores
    host.load_state_dict(ours.state_dict())
    features, proposals = batch()
    torch.testing.assert_close(
        ours.losses(ours(features), proposals), host.losses(host(features), proposals)
    )
    detections, kept = ours.inference(ours(features), proposals)
    expected, expected_kept = host.inference(host(features), proposals)
    assert sum(len(d) for d in expected) > 0
    for d, e, k, x in zip(detections, expected, kept, expected_kept, strict=True):
        torch.testing.assert_close(d.pred_boxes.tensor, e.pred_boxes.tensor)
        torch.testing.assert_close(d.scores, e.scores)
        assert torch.equal(d.pred_classes, e.pred_classes)
        assert torch.equal(k, x)


@pytest.mark.parametrize("federated", [True, False])
def test_a_federated_loss_gives_detectron2s_losses_detections_and_state_dict(storage, federated):
    counts = [100, 3, 40, 7, 9]
    host = FastRCNNOutputLayers(
        ShapeSpec(channels=D),
        num_classes=C,
        test_score_thresh=0.1,
        use_sigmoid_ce=True,
        use_fed_loss=federated,
        fed_loss_num_classes=4,
        get_fed_loss_cls_weights=lambda: torch.tensor(counts).float() ** 0.5,
        **BOX_OPTIONS,
    )
    ours = LossDrivenOutputLayers(
        ShapeSpec(channels=D),
        cls_score=linear_classifier(std=1.0),
        cls_loss=FederatedLoss(C, class_counts=counts, num_sampled=4 if federated else None),
        test_score_thresh=0.1,
        **BOX_OPTIONS,
    )
    left_out = {"fed_loss_cls_weights", "cls_loss.training_split.counts"}
    assert ours.state_dict().keys() - left_out == host.state_dict().keys() - left_out
    host.load_state_dict(
        {k: v for k, v in ours.state_dict().items() if k not in left_out}, strict=False
    )
    features, proposals = batch()
    torch.manual_seed(1)
    losses = ours.losses(ours(features), proposals)
    torch.manual_seed(1)
    torch.testing.assert_close(losses, host.losses(host(features), proposals), rtol=0, atol=0)
    detections, _ = ours.inference(ours(features), proposals)
    expected, _ = host.inference(host(features), proposals)
    assert sum(len(d) for d in expected) > 0
    for d, e in zip(detections, expected, strict=True):
        torch.testing.assert_close(d.pred_boxes.tensor, e.pred_boxes.tensor, rtol=0, atol=0)
        torch.testing.assert_close(d.scores, e.scores, rtol=0, atol=0)
        assert torch.equal(d.pred_classes, e.pred_classes)


def test_a_loss_that_asks_for_verified_classes_names_the_model_it_needs(storage):
    predictor = LossDrivenOutputLayers(
        ShapeSpec(channels=D),
        cls_score=linear_classifier(),
        cls_loss=FederatedSeesawLoss(C),
        **BOX_OPTIONS,
    )
    features, proposals = batch()
    with pytest.raises(ValueError, match=r"use d2_seesaw\.modeling\.FederatedRCNN as the model"):
        predictor.losses(predictor(features), proposals)
    assert predictor.losses(predictor(features[:0]), [])["loss_cls_classes"] == 0


def test_losses_match_the_loss_object_and_detectron2s_box_loss(storage):
    predictor = seesaw_predictor()
    features, proposals = batch()
    logits, deltas = predictor(features)
    labels = torch.cat([p.gt_classes for p in proposals])
    losses = predictor.losses((logits, deltas), proposals)
    expected = SeesawLoss(C)(logits, labels)
    foreground = labels < C
    boxes = torch.cat([p.proposal_boxes.tensor for p in proposals])
    deltas_of_class = deltas.view(-1, C, 4)[foreground, labels[foreground]]
    targets = predictor.box2box_transform.get_deltas(boxes[foreground], boxes[foreground] + 1)
    expected["loss_box_reg"] = (deltas_of_class - targets).abs().sum() / len(labels)
    torch.testing.assert_close(losses, expected)


def test_scores_are_split_by_image_and_background_comes_last():
    predictor = seesaw_predictor()
    features, proposals = batch()
    logits, deltas = predictor(features)
    logits = logits.detach().clone()
    logits[:, C:] = torch.tensor([-9.0, 9.0])  # confident background
    probs = predictor.predict_probs((logits, deltas), proposals)
    assert [tuple(p.shape) for p in probs] == [(4, C + 1), (2, C + 1), (3, C + 1)]
    torch.testing.assert_close(torch.cat(probs).sum(1), torch.ones(9))
    assert (torch.cat(probs)[:, C] > 0.99).all()


def test_statistics_treat_background_as_a_separate_class(storage):
    predictor = seesaw_predictor()
    proposals = [image([0, 1, C, C, -1])]
    logits = torch.zeros(5, C + 2)
    logits[0, 0] = 9  # right class ...
    logits[1, 2] = 9  # ... wrong class ...
    logits[:2, C] = 9  # ... both predicted as foreground
    logits[2, C + 1] = 9  # background predicted as background
    logits[3, 3] = logits[3, C] = 9  # background predicted as class 3
    predictor.losses((logits, torch.zeros(5, 4 * C)), proposals)
    latest = {name: value for name, (value, _) in storage.latest().items()}
    assert latest["fast_rcnn/cls_accuracy"] == pytest.approx(2 / 4)  # without the ignored RoI
    assert latest["fast_rcnn/fg_cls_accuracy"] == pytest.approx(1 / 2)
    assert latest["fast_rcnn/false_negative"] == 0


def test_weights_scale_losses_by_name(storage):
    features, proposals = batch()
    plain = seesaw_predictor()
    weighted = seesaw_predictor(
        loss_weight={"loss_cls": 2.0, "loss_cls_objectness": 5.0, "loss_box_reg": 3.0}
    )
    weighted.load_state_dict(plain.state_dict())
    expected = plain.losses(plain(features), proposals)
    losses = weighted.losses(weighted(features), proposals)
    factors = {"loss_cls_classes": 2.0, "loss_cls_objectness": 5.0, "loss_box_reg": 3.0}
    torch.testing.assert_close(losses, {n: expected[n] * f for n, f in factors.items()})


@pytest.mark.parametrize(
    "proposals", [[], [image([])], [image([C, C], has_objects=False)]], ids=["none", "no RoI", "bg"]
)
def test_no_valid_rois_give_zero_class_loss_with_gradients(storage, proposals):
    predictor = seesaw_predictor()
    losses = predictor.losses(predictor(torch.randn(sum(map(len, proposals)), D)), proposals)
    assert losses["loss_cls_classes"] == 0
    assert losses["loss_box_reg"] == 0
    sum(losses.values()).backward()
    for name, parameter in predictor.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name


def test_every_parameter_gets_a_gradient(storage):
    predictor = seesaw_predictor()
    features, proposals = batch()
    sum(predictor.losses(predictor(features), proposals).values()).backward()
    for name, parameter in predictor.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_class_counts_are_saved_under_the_predictor():
    assert "cls_loss.class_counts" in seesaw_predictor().state_dict()


@pytest.mark.parametrize("flag", ["use_sigmoid_ce", "use_fed_loss"])
def test_flags_of_other_losses_are_rejected_with_a_reason(flag):
    with pytest.raises(ValueError, match=f"LossDriven.* does not support {flag}=True: .* cls_loss"):
        seesaw_predictor(**{flag: True})


def test_disabled_flags_are_accepted():
    seesaw_predictor(use_sigmoid_ce=False, use_fed_loss=False)


def test_unequal_numbers_of_classes_are_reported():
    with pytest.raises(ValueError, match="num_classes is 7 in the box predictor and 5 in"):
        seesaw_predictor(num_classes=7)


def test_a_classifier_of_the_wrong_width_is_reported():
    with pytest.raises(ValueError, match=r"16 features to 6 logits, .* needs 7 logits"):
        LossDrivenOutputLayers(
            ShapeSpec(channels=D),
            cls_score=nn.Linear(D, C + 1),
            cls_loss=SeesawLoss(C),
            **BOX_OPTIONS,
        )


def test_a_given_classifier_is_used_unchanged():
    classifier = nn.Linear(D, C + 2)
    predictor = LossDrivenOutputLayers(
        ShapeSpec(channels=D), cls_score=classifier, cls_loss=SeesawLoss(C), **BOX_OPTIONS
    )
    assert predictor.cls_score is classifier


# --- box deltas limited in both directions ---

WEIGHTS = (10.0, 10.0, 5.0, 4.0)
BOX = torch.tensor([[10.0, 20.0, 1010.0, 2020.0]])


def size(boxes):
    return [(boxes[0, 2] - boxes[0, 0]).item(), (boxes[0, 3] - boxes[0, 1]).item()]


def test_boxes_shrink_at_most_by_the_factor_they_may_grow():
    transform = TwoSidedBox2BoxTransform(WEIGHTS)
    smallest = transform.apply_deltas(torch.tensor([[0.0, 0.0, -100.0, -100.0]]), BOX)
    # mmdet: wh_ratio_clip = 16 / 1000.
    assert size(smallest) == pytest.approx([1000 * 0.016, 2000 * 0.016], rel=1e-4)
    largest = transform.apply_deltas(torch.tensor([[0.0, 0.0, 100.0, 100.0]]), BOX)
    assert size(largest) == pytest.approx([1000 / 0.016, 2000 / 0.016], rel=1e-4)


def test_each_side_is_clamped_after_applying_its_weight():
    within = [5 * math.log(0.017), 4 * math.log(0.017)]
    boxes = TwoSidedBox2BoxTransform(WEIGHTS).apply_deltas(torch.tensor([[0.0, 0.0, *within]]), BOX)
    assert size(boxes) == pytest.approx([17, 34], rel=1e-4)


@pytest.mark.parametrize("boxes_each", [1, 7])
def test_moderate_deltas_are_decoded_as_in_detectron2(boxes_each):
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


def test_input_deltas_are_not_modified_and_may_be_empty():
    deltas = torch.full((1, 4), -100.0)
    TwoSidedBox2BoxTransform(WEIGHTS).apply_deltas(deltas, BOX)
    assert (deltas == -100).all()
    empty = TwoSidedBox2BoxTransform(WEIGHTS).apply_deltas(torch.zeros(0, 8), torch.zeros(0, 4))
    assert empty.shape == (0, 8)
