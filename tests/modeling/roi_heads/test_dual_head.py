import pytest
import torch
from detectron2.modeling.roi_heads import FastRCNNConvFCHead
from detectron2.structures import Boxes, Instances
from torch.nn.functional import cross_entropy

from d2_seesaw.losses import SeesawLoss, SoftmaxLoss
from d2_seesaw.modeling.roi_heads.dual_head import DualFeatures
from d2_seesaw.modeling.roi_heads.stages import Stage, refined_boxes
from d2_seesaw.modeling.roi_heads.tsd import TSDFeatures
from tests.modeling.roi_heads import dual_parts, parts, tsd_parts
from tests.modeling.roi_heads.parts import SIZE, WIDTH, C

pytestmark = pytest.mark.usefixtures("storage")

R = 7


def rois(number=R):
    image = Instances((SIZE, SIZE))
    image.proposal_boxes = Boxes(parts.boxes(number))
    image.gt_boxes = Boxes(parts.boxes(number))
    image.gt_classes = torch.randint(0, C + 1, (number,))
    return image


def features(number=R):
    return DualFeatures(torch.randn(number, WIDTH), torch.randn(number, WIDTH))


def predictor(**options):
    built = dual_parts.box_predictor("plain", True, **options)
    with torch.no_grad():
        built.bbox_pred.weight.normal_(std=0.2)
    return built


def without_new(module):
    return {k: v for k, v in module.state_dict().items() if "new." not in k}


@pytest.mark.parametrize("conv_dims", [[], [6]])
def test_the_box_head_is_two_box_heads_on_the_same_rois(conv_dims):
    options = {"conv_dims": conv_dims, "fc_dims": [WIDTH, WIDTH]}
    head = dual_parts.box_head("plain", True, **options)
    old = FastRCNNConvFCHead(dual_parts.SHAPE, **options)
    old.load_state_dict(without_new(head))
    x = torch.randn(3, parts.CHANNELS, 7, 7)
    both = head(x)
    torch.testing.assert_close(both.old, old(x))
    torch.testing.assert_close(both.new, head.new(x))
    assert (both.old - both.new).abs().max() > 0.01
    assert head.output_shape == old.output_shape


@pytest.mark.parametrize("conv_dims", [None, [6]])
def test_the_tsd_head_has_two_branches_on_the_moved_bins(conv_dims):
    head = dual_parts.box_head("tsd", True, conv_dims=conv_dims).eval()
    old = tsd_parts.box_head(conv_dims=conv_dims).eval()
    old.load_state_dict(without_new(head))
    maps = [parts.features()[name] for name in parts.LEVELS]
    boxes = [Boxes(parts.boxes(3)), Boxes(parts.boxes(2))]
    inputs = []
    for branch in (head.classification, head.classification.new):
        branch.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))

    def pool(**options):
        return tsd_parts.pooler()(maps, boxes, **options)

    found, expected = head(pool, boxes), old(pool, boxes)
    torch.testing.assert_close(found.classification.old, expected.classification)
    torch.testing.assert_close(found.classification.new, head.classification.new(inputs[0]))
    assert torch.equal(inputs[0], inputs[1])
    for name in ("localization", "boxes"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name))


def literal_scores(logits, seesaw):
    """Return probabilities of C classes and background from the logits of one branch."""
    if not seesaw:
        return logits.softmax(dim=1)
    objectness = logits[:, C:].softmax(dim=1)
    return torch.cat([logits[:, :C].softmax(dim=1) * objectness[:, :1], objectness[:, 1:]], dim=1)


LOSSES = [(True, True), (False, False), (False, True)]


@pytest.mark.parametrize(("old", "new"), LOSSES)
def test_scores_are_the_mean_of_both_branches_scores(old, new):
    predict, x = predictor(seesaw=old, new_seesaw=new), features()
    predictions = predict(x)
    old_logits, new_logits = predict.cls_score(x.old), predict.new.cls_score(x.new)
    expected = 0.5 * (literal_scores(old_logits, old) + literal_scores(new_logits, new))
    scores = predict.predict_probs(predictions, [rois(3), rois(0), rois(4)])
    assert [len(s) for s in scores] == [3, 0, 4]
    torch.testing.assert_close(torch.cat(scores), expected)
    torch.testing.assert_close(torch.cat(scores).sum(dim=1), torch.ones(R))
    torch.testing.assert_close(predictions[1], predict.bbox_pred(x.old))


def test_with_an_ordinary_box_head_the_new_classifier_sees_the_old_features():
    predict = predictor()
    x = torch.randn(R, WIDTH, 1, 1)  # the output shape of a convolutional head
    logits, deltas = predict(x)
    flat = x.flatten(1)
    expected = torch.cat([predict.cls_score(flat), predict.new.cls_score(flat)], dim=1)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(deltas, predict.bbox_pred(flat))


def test_tsd_classifies_the_moved_bins_twice_and_regresses_boxes_once():
    predict = dual_parts.box_predictor("tsd", True).eval()
    both, where = features(), torch.randn(R, WIDTH)
    boxes = torch.rand(R, 4)
    found = predict(TSDFeatures(both, where, boxes, None))
    expected = torch.cat([predict.cls_score(both.old), predict.new.cls_score(both.new)], dim=1)
    torch.testing.assert_close(found.logits, expected)
    torch.testing.assert_close(found.deltas, predict.bbox_pred(where))
    assert found.boxes is boxes
    assert found.sibling is None
    losses = predict.losses(found, [rois()])
    assert set(losses) == {"loss_cls_classes_new", "loss_cls_objectness_new"}


def test_only_the_new_branch_has_a_loss_and_counts(storage):
    predict, x, image = predictor(seesaw=False, new_seesaw=False), features(), rois()
    losses = predict.losses(predict(x), [image])
    expected = cross_entropy(predict.new.cls_score(x.new), image.gt_classes)
    assert set(losses) == {"loss_cls_new"}
    torch.testing.assert_close(losses["loss_cls_new"], expected)
    right = predict.new.cls_score(x.new).argmax(dim=1) == image.gt_classes
    logged = storage.latest()["fast_rcnn_new/cls_accuracy"][0]
    assert logged == pytest.approx(right.float().mean().item())
    counting = predictor()
    counting.losses(counting(x), [image])
    assert counting.cls_loss.class_counts.sum() == 0
    assert torch.equal(
        counting.new.cls_loss.class_counts, image.gt_classes.bincount(minlength=C + 1)
    )


def test_new_losses_are_weighted_by_the_losses_own_names():
    plain, x, image = predictor(), features(), rois()
    weighted = predictor(loss_weight={"loss_cls": 3.0, "loss_cls_objectness": 5.0})
    weighted.load_state_dict(plain.state_dict())
    expected = plain.losses(plain(x), [image])
    found = weighted.losses(weighted(x), [image])
    factors = {"loss_cls_classes_new": 3.0, "loss_cls_objectness_new": 5.0}
    assert set(found) == set(factors)
    for name, factor in factors.items():
        torch.testing.assert_close(found[name], factor * expected[name])


def test_the_old_branch_gets_no_gradient_from_the_losses():
    predict = predictor()
    sum(predict.losses(predict(features()), [rois()]).values()).backward()
    for name, parameter in predict.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.any())
        assert reached == ("new." in name), name


def test_averaged_scores_select_the_class_specific_box():
    predict, image = predictor(cls_agnostic_bbox_reg=False), rois()
    image.remove("gt_classes")
    predictions = predict(features())
    (scores,) = predict.predict_probs(predictions, [image])
    best = scores[:, :C].argmax(dim=1)
    old_logits = predictions[0][:, :C].argmax(dim=1)
    assert (best != old_logits).any()
    boxes = predict.box2box_transform.apply_deltas(predictions[1], image.proposal_boxes.tensor)
    expected = boxes.view(R, C, 4)[torch.arange(R), best]
    (found,) = refined_boxes(Stage(predict, predictions, [image]), C)
    torch.testing.assert_close(found, expected)


def test_a_new_branch_starts_as_a_copy_but_without_its_counts():
    head, predict = dual_parts.box_head("plain", True), predictor()
    predict.cls_loss.class_counts += 5
    for part in (head, predict):
        part.start_new(copy_weights=True, copy_counts=False)
    both = head(torch.randn(3, parts.CHANNELS, 7, 7))
    assert torch.equal(both.old, both.new)
    old_logits, new_logits = predict(both)[0].chunk(2, dim=1)
    assert torch.equal(old_logits, new_logits)
    assert predict.new.cls_loss.class_counts.sum() == 0


def test_counts_can_be_copied_without_the_weights():
    predict = predictor()
    predict.cls_loss.class_counts += 5
    weight = predict.new.cls_score.weight.clone()
    predict.start_new(copy_weights=False, copy_counts=True)
    assert torch.equal(predict.new.cls_score.weight, weight)
    assert torch.equal(predict.new.cls_loss.class_counts, predict.cls_loss.class_counts)


@pytest.mark.parametrize(
    ("copied", "message"),
    [
        ({"copy_weights": True, "copy_counts": False}, "new_cls_score cannot start as a copy"),
        ({"copy_weights": False, "copy_counts": True}, "new_cls_loss cannot start as a copy"),
    ],
)
def test_a_branch_of_another_kind_cannot_start_as_a_copy(copied, message):
    with pytest.raises(ValueError, match=message):
        predictor(seesaw=False, new_seesaw=True).start_new(**copied)


def test_inconsistent_branches_are_rejected():
    loss = SeesawLoss(C)
    for new, message in (
        ({"cls_loss": loss, "new_cls_loss": loss}, "same SeesawLoss: the new branch"),
        ({"new_cls_loss": SoftmaxLoss(C + 1)}, "num_classes is 6 in new_cls_loss and 5 in cls_"),
        ({"new_cls_score": torch.nn.Linear(WIDTH, C)}, f"needs {C + 2} logits"),
    ):
        with pytest.raises(ValueError, match=message):
            predictor(**new)
