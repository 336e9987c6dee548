import pytest
import torch
from detectron2.structures import Boxes, Instances

from d2_seesaw.losses import FederatedLoss, SoftmaxLoss
from d2_seesaw.modeling.roi_heads.tsd import TSDFeatures, TSDPredictions
from tests.modeling.roi_heads import parts, tsd_parts
from tests.modeling.roi_heads.parts import SIZE, WIDTH, C

pytestmark = pytest.mark.usefixtures("storage")


def rois(labels=(1, C, 3)):
    """Return proposals of one image, with their objects slightly shifted."""
    image = Instances((SIZE, SIZE))
    image.proposal_boxes = Boxes(parts.boxes(len(labels)))
    image.gt_boxes = Boxes(image.proposal_boxes.tensor + torch.randn(len(labels), 4))
    image.gt_classes = torch.tensor(labels, dtype=torch.int64)
    return image


def features(image, moved_by=3.0):
    number = len(image)
    moved = image.proposal_boxes.tensor + torch.randn(number, 2).repeat(1, 2) * moved_by
    return TSDFeatures(*torch.randn(2, number, WIDTH), moved, torch.randn(number, WIDTH))


def predictions(image, predictor):
    """Return predictions whose boxes require a gradient."""
    found = predictor(features(image))
    return found._replace(boxes=found.boxes.requires_grad_())


@pytest.mark.parametrize("agnostic", [True, False])
def test_the_regression_target_is_the_delta_from_moved_box_to_object(agnostic):
    predictor = tsd_parts.predictor(cls_agnostic_bbox_reg=agnostic, pc_loc=False)
    image = rois()
    found = predictions(image, predictor)
    deltas = predictor.box2box_transform.get_deltas(found.boxes, image.gt_boxes.tensor)
    found = found._replace(deltas=deltas if agnostic else deltas.repeat(1, C))
    (boxes,) = predictor.predict_boxes(found, [image])
    torch.testing.assert_close(boxes.view(3, -1, 4)[:, 0], image.gt_boxes.tensor)
    assert boxes.shape == (3, 4 if agnostic else 4 * C)
    assert predictor.losses(found, [image])["loss_box_reg"].item() < 1e-4
    in_place = found._replace(boxes=image.proposal_boxes.tensor)
    assert predictor.losses(in_place, [image])["loss_box_reg"].item() > 0.1


@pytest.mark.parametrize("detach", [False, True])
def test_regression_targets_train_the_offsets_unless_detached(detach):
    predictor = tsd_parts.predictor(detach_targets=detach)
    image = rois()
    found = predictions(image, predictor)
    losses = predictor.losses(found, [image])
    options = {"retain_graph": True, "allow_unused": True}
    (gradient,) = torch.autograd.grad(losses["loss_box_reg"], found.boxes, **options)
    assert (gradient is None) == detach
    if not detach:
        assert gradient.any(dim=1).tolist() == [True, False, True]
    (gradient,) = torch.autograd.grad(losses["loss_box_reg_sibling"], found.boxes, **options)
    assert gradient is None
    (gradient,) = torch.autograd.grad(losses["loss_pc_loc"], found.boxes)
    assert gradient.any()


def test_a_sibling_with_equal_features_and_weights_has_equal_losses():
    predictor = tsd_parts.predictor()
    predictor.sibling.cls_score.load_state_dict(predictor.cls_score.state_dict())
    predictor.sibling.bbox_pred.load_state_dict(predictor.bbox_pred.state_dict())
    image = rois()
    x = torch.randn(3, WIDTH)
    found = predictor(TSDFeatures(x, x, image.proposal_boxes.tensor, x))
    losses = predictor.losses(found, [image])
    for name in ("loss_cls", "loss_box_reg"):
        assert losses[name] > 0
        torch.testing.assert_close(losses[f"{name}_sibling"], losses[name])


def test_the_classification_constraint_covers_the_true_class_of_valid_rois():
    predictor = tsd_parts.predictor(pc_margin=0.2)
    image = rois((1, C, 3, -1))
    sibling = torch.tensor([0.5, 0.95, 0.1, 0.5])  # targets: 0.7, 1 and 0.3; ignored
    tsd = torch.tensor([0.6, 0.4, 0.9, 0.5])
    classes = [1, C, 3, 0]

    def logits(true_class_probs):
        p = ((1 - true_class_probs) / C)[:, None].repeat(1, C + 1)
        p[range(4), classes] = true_class_probs
        return p.log() + 3.0

    found = TSDPredictions(
        logits(tsd),
        torch.zeros(4, 4),
        image.proposal_boxes.tensor,
        (logits(sibling), torch.zeros(4, 4)),
    )
    loss = predictor.losses(found, [image])["loss_pc_cls"]
    torch.testing.assert_close(loss, torch.tensor((0.1 + 0.6 + 0) / 3))


def boxes_at(*left):
    """Return boxes of 10 x 10 pixels."""
    return torch.tensor([[x, 10.0, x + 10, 20.0] for x in left])


@pytest.mark.parametrize("agnostic", [True, False])
def test_the_localization_constraint_compares_ious_with_the_objects(agnostic):
    predictor = tsd_parts.predictor(cls_agnostic_bbox_reg=agnostic)
    image = rois()
    image.gt_boxes = Boxes(boxes_at(20, 20, 20))
    # 10 x 10 boxes shifted by s have an IoU of (10 - s) / (10 + s).
    image.proposal_boxes = Boxes(boxes_at(25, 20, 21))  # IoU 1/3, background, 9/11
    start = boxes_at(15, 0, 23)

    logits = torch.zeros(3, C + 1)
    sibling_deltas = torch.zeros(3, 4 if agnostic else 4 * C)
    deltas = sibling_deltas.clone()
    if not agnostic:
        # The box of class c moves by c pixels: dx has weight 10 and the width is 10.
        deltas[:, ::4] = torch.arange(float(C))
    found = TSDPredictions(logits, deltas, start, (logits, sibling_deltas))
    shifts = (5, 3) if agnostic else (-5 + 1, 3 + 3)
    loss = 0
    for shift, reference in zip(shifts, (1 / 3, 9 / 11), strict=True):
        achieved = (10 - abs(shift)) / (10 + abs(shift))
        loss += max(0, reference + min(1 - reference, 0.3) - achieved) / 2
    assert loss > 0.1
    torch.testing.assert_close(
        predictor.losses(found, [image])["loss_pc_loc"], torch.tensor(loss), atol=1e-4, rtol=1e-4
    )


def test_the_constraints_do_not_train_the_sibling():
    predictor = tsd_parts.predictor()
    image = rois()
    x = features(image)
    parameters = dict(predictor.named_parameters())
    losses = predictor.losses(predictor(x), [image])
    compared = losses["loss_pc_cls"] + losses["loss_pc_loc"]
    gradients = torch.autograd.grad(compared, list(parameters.values()), allow_unused=True)
    learning = {n for n, g in zip(parameters, gradients, strict=True) if g is not None}
    layers = ("cls_score", "bbox_pred")
    assert learning == {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}


def test_losses_have_names_and_weights():
    image = rois()
    plain = tsd_parts.predictor()
    weights = {"loss_cls": 2, "loss_box_reg": 3, "loss_pc_cls": 5}
    weighted = tsd_parts.predictor(loss_weight=weights)
    weighted.load_state_dict(plain.state_dict())
    x = features(image)
    losses, scaled = (p.losses(p(x), [image]) for p in (plain, weighted))
    factors = {
        "loss_cls": 2,
        "loss_box_reg": 3,
        "loss_cls_sibling": 2,
        "loss_box_reg_sibling": 3,
        "loss_pc_cls": 5,
        "loss_pc_loc": 1,
    }
    assert set(losses) == set(factors)
    assert all(loss > 0 for loss in losses.values())
    torch.testing.assert_close(scaled, {n: factors[n] * losses[n] for n in losses})


@pytest.mark.parametrize(("options", "width"), [({}, 4), ({"cls_agnostic_bbox_reg": False}, 4 * C)])
def test_boxes_are_class_agnostic_by_default(options, width):
    predictor = tsd_parts.predictor(**options)
    assert predictor.bbox_pred.out_features == width
    assert predictor.sibling.bbox_pred.out_features == width


def test_the_constraints_can_be_left_out():
    predictor = tsd_parts.predictor(pc_cls=False, pc_loc=False)
    image = rois()
    assert {
        "loss_cls",
        "loss_box_reg",
        "loss_cls_sibling",
        "loss_box_reg_sibling",
    } == set(predictor.losses(predictor(features(image)), [image]))


def test_each_loss_object_has_its_own_counts():
    predictor = tsd_parts.predictor(seesaw=True, sibling_seesaw=True)
    image = rois((1, C, 3, 3, -1))
    losses = predictor.losses(predictor(features(image)), [image])
    names = {"loss_cls_classes", "loss_cls_objectness", "loss_box_reg"}
    assert set(losses) == names | {f"{n}_sibling" for n in names} | {"loss_pc_loc"}
    for loss in (predictor.cls_loss, predictor.sibling.cls_loss):
        assert loss.class_counts.tolist() == [0, 1, 0, 2, 0, 1]


def test_accuracies_of_the_sibling_are_logged_separately(storage):
    predictor = tsd_parts.predictor()
    image = rois()
    found = predictor(features(image))
    right = torch.nn.functional.one_hot(image.gt_classes, C + 1) * 9.0
    found = found._replace(logits=right, sibling=(-right, found.sibling[1]))
    predictor.losses(found, [image])
    latest = storage.latest()
    assert latest["fast_rcnn/cls_accuracy"][0] == 1
    assert latest["fast_rcnn_sibling/cls_accuracy"][0] == 0


@pytest.mark.parametrize("labels", [(), (C, C)])
def test_without_objects_losses_are_finite_and_all_parameters_get_a_gradient(labels):
    predictor = tsd_parts.predictor()
    image = rois(labels)
    if not labels:
        image.remove("gt_boxes")
    found = predictions(image, predictor)
    losses = predictor.losses(found, [image])
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in [*predictor.named_parameters(), ("boxes", found.boxes)]:
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_inference_predictions_cannot_be_trained_on():
    predictor = tsd_parts.predictor()
    image = rois()
    found = predictor(features(image)._replace(sibling=None))
    (scores,) = predictor.predict_probs(found, [image])
    torch.testing.assert_close(scores, found.logits.softmax(dim=1))
    with pytest.raises(ValueError, match="losses need the sibling's predictions"):
        predictor.losses(found, [image])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"seesaw": True},
            "of 6 classes, but cls_loss is a SeesawLoss with 7 logits.*pc_cls=False",
        ),
        ({"sibling_seesaw": True}, "but sibling_cls_loss is a SeesawLoss with 7 logits"),
        ({"cls_loss": FederatedLoss(C, num_sampled=None)}, "but cls_loss is a FederatedLoss"),
    ],
)
def test_the_constraint_rejects_losses_without_softmax_probabilities(options, message):
    with pytest.raises(ValueError, match=message):
        tsd_parts.predictor(**options, pc_cls=True)


def test_sharing_one_loss_object_is_rejected():
    loss = SoftmaxLoss(C)
    with pytest.raises(ValueError, match="are the same SoftmaxLoss"):
        tsd_parts.predictor(cls_loss=loss, sibling_cls_loss=loss)
