"""Calibration of whole models: every way to the scores, and the state that stays."""

import copy
import logging

import pytest
import torch
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from torch import nn

from d2_seesaw.inference import (
    MeanOverSharedProposals,
    MultiViewInference,
    apply_calibration,
    attach_calibration,
    calibration_of,
    detach_calibration,
)
from d2_seesaw.inference.calibration import score_structure
from d2_seesaw.inference.tta.merging import box_predictions
from d2_seesaw.layers import Calibration, tau_normalized
from d2_seesaw.losses import SeesawLoss, SoftmaxLoss
from d2_seesaw.modeling.second_phase import ClassScales, _scale_logits
from tests.inference.models import cascade_rcnn, mask_rcnn
from tests.modeling.roi_heads import dual_parts
from tests.modeling.roi_heads.dual_parts import KINDS
from tests.modeling.roi_heads.parts import SIZE, C

COUNTS = [1, 5, 20, 90, 400]
NORCAL = Calibration("norcal", {"gamma": 0.8}, C, "foreground", COUNTS)


def norcal_of_seesaw(scores):
    """Calibrate by the equation: classes over N^gamma, normalized, times objectness."""
    classes = scores[:, :-1] / torch.tensor(COUNTS) ** 0.8
    share = classes / classes.sum(dim=1, keepdim=True)
    return torch.cat([share * scores[:, :-1].sum(dim=1, keepdim=True), scores[:, -1:]], dim=1)


@torch.no_grad()
def seen_by(model):
    images = model.preprocess_image(dual_parts.images())
    features = model.backbone(images.tensor)
    return features, model.proposal_generator(images, features, None)[0]


def predictor_of(model):
    predictors = model.roi_heads.box_predictor
    return predictors[-1] if isinstance(predictors, nn.ModuleList) else predictors


@pytest.mark.parametrize("fusion", ["logits", "probabilities"])
@pytest.mark.parametrize("dual", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_detections_are_those_of_scores_that_are_calibrated_by_hand(kind, dual, fusion):
    model = dual_parts.model(kind, dual=dual).eval()
    if kind != "plain":
        model.roi_heads.score_fusion = fusion
    features, proposals = seen_by(model)
    boxes, scores = box_predictions(model.roi_heads, features, proposals)
    expected_scores = [norcal_of_seesaw(image) for image in scores]
    last = predictor_of(model)
    settings = (last.test_score_thresh, last.test_nms_thresh, last.test_topk_per_image)
    expected, _ = fast_rcnn_inference(boxes, expected_scores, [(SIZE, SIZE)] * 2, *settings)

    state = copy.deepcopy(model.state_dict())
    attach_calibration(model, NORCAL)
    assert model.state_dict().keys() == state.keys()
    found_boxes, found_scores = box_predictions(model.roi_heads, features, proposals)
    model.roi_heads.mask_on = False
    found, _ = model.roi_heads(None, features, proposals)
    for one, other in zip(boxes, found_boxes, strict=True):
        assert torch.equal(one, other)
    for one, other in zip(found_scores, expected_scores, strict=True):
        torch.testing.assert_close(one, other)
    for one, other in zip(found, expected, strict=True):
        assert len(one) > 0
        torch.testing.assert_close(one.scores, other.scores)
        torch.testing.assert_close(one.pred_boxes.tensor, other.pred_boxes.tensor)
        assert torch.equal(one.pred_classes, other.pred_classes)

    detach_calibration(model)
    assert calibration_of(model) is None
    _, again = box_predictions(model.roi_heads, features, proposals)
    assert all(torch.equal(one, other) for one, other in zip(again, scores, strict=True))


@torch.no_grad()
def test_class_specific_boxes_of_a_cascade_do_not_depend_on_the_calibration():
    heads = {"predictors": {"cls_agnostic_bbox_reg": False}}
    model = dual_parts.model("cascade", **heads).eval()
    features, proposals = seen_by(model)
    boxes, _ = box_predictions(model.roi_heads, features, proposals)
    attach_calibration(model, NORCAL)
    calibrated, _ = box_predictions(model.roi_heads, features, proposals)
    assert all(torch.equal(one, other) for one, other in zip(boxes, calibrated, strict=True))


@torch.no_grad()
def test_test_time_augmentation_averages_calibrated_scores():
    model = dual_parts.model("cascade").eval()
    model.roi_heads.mask_on = False
    attach_calibration(model, NORCAL)
    image = dual_parts.images()[0]
    (expected,) = model([image])
    views = {"scales": [(SIZE, SIZE)], "flip": False}
    for merge in (None, MeanOverSharedProposals()):
        (found,) = MultiViewInference(model, merge=merge, **views)([image])
        torch.testing.assert_close(found["instances"].scores, expected["instances"].scores)


@pytest.mark.parametrize("kind", ["plain", "cascade", "tsd"])
@pytest.mark.parametrize("dual", [False, True])
@torch.no_grad()
def test_tau_norm_equals_a_model_with_the_normalized_weights(kind, dual):
    options = {"predictors": {"seesaw": False}}
    model = dual_parts.model(kind, dual=dual, **options).eval()
    features, proposals = seen_by(model)
    attach_calibration(model, Calibration("tau-norm", {"tau": 0.7}, C))
    assert calibration_of(model).parameters == {"tau": 0.7}
    _, found = box_predictions(model.roi_heads, features, proposals)
    detach_calibration(model)
    _, plain = box_predictions(model.roi_heads, features, proposals)

    predictors = model.roi_heads.box_predictor
    for predictor in predictors if isinstance(predictors, nn.ModuleList) else [predictors]:
        for classifier in [predictor.cls_score, *([predictor.new.cls_score] if dual else [])]:
            norms = classifier.weight[:C].norm(dim=1)
            mean = norms.log().mean().exp()
            classifier.weight[:C] *= ((mean / norms) ** 0.7)[:, None]
    _, expected = box_predictions(model.roi_heads, features, proposals)
    for one, other, before in zip(found, expected, plain, strict=True):
        torch.testing.assert_close(one, other)
        assert not torch.allclose(one, before)


@torch.no_grad()
def test_tau_norm_keeps_learned_class_scales_and_a_tau_of_zero_changes_no_bit():
    model = dual_parts.model("plain", predictors={"seesaw": False}).eval()
    classifier = predictor_of(model).cls_score
    x, bias = torch.randn(9, classifier.in_features), classifier.bias
    classifier.class_scales = ClassScales(C + 1)
    classifier.class_scales.scales.copy_(torch.rand(C + 1) + 0.5)
    classifier.register_forward_hook(_scale_logits)  # as the second phase does
    scales = classifier.class_scales.scales
    plain = classifier(x)
    attach_calibration(model, Calibration("tau-norm", {"tau": 0.7}, C))
    weight = tau_normalized(classifier.weight, 0.7, C)
    expected = torch.nn.functional.linear(x, weight, bias) * scales
    torch.testing.assert_close(classifier(x), expected)
    attach_calibration(model, Calibration("tau-norm", {"tau": 0.0}, C))
    assert torch.equal(classifier(x), plain)
    assert len(classifier._forward_hooks) == 1  # none of an identity


class Sigmoids:
    """Loss of sigmoids with a last column that depends on them, or on nothing."""

    num_classes = num_logits = 4

    def __init__(self, last):
        self.last = last

    def scores(self, logits):
        classes = logits.sigmoid()
        return torch.cat([classes, self.last(classes)], dim=1)


class WithObjectness:
    """Loss of sigmoids times objectness."""

    num_classes, num_logits = 4, 5

    def scores(self, logits):
        classes, background = logits.sigmoid().split([4, 1], dim=1)
        return torch.cat([classes * (1 - background), background], dim=1)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (SoftmaxLoss(4), "background"),
        (SeesawLoss(4), "foreground"),
        (SeesawLoss(1), "foreground"),
        (Sigmoids(lambda classes: torch.zeros_like(classes[:, :1])), "independent"),
        (Sigmoids(lambda classes: 1 - classes.amax(dim=1, keepdim=True)), "independent"),
        (WithObjectness(), "objectness"),
    ],
)
def test_the_structure_of_the_scores_is_found_from_the_loss(loss, expected):
    model = dual_parts.model("plain").eval()
    predictor_of(model).cls_loss = loss if isinstance(loss, nn.Module) else None
    if not isinstance(loss, nn.Module):
        predictor_of(model).scoring_classifiers = lambda: [(nn.Linear(2, 4), loss)]
    assert score_structure(model) == expected


def test_branches_of_different_structure_are_refused():
    start = {"init": "random", "fresh_counts": True}
    mixed = {"predictors": {"new_seesaw": False}, "model_options": start}
    model = dual_parts.model("plain", dual=True, **mixed)
    with pytest.raises(ValueError, match="different structure"):
        score_structure(model)


def test_models_that_cannot_be_calibrated_are_refused_and_left_unchanged():
    tau = Calibration("tau-norm", {"tau": 1.0}, C)
    seesaw = dual_parts.model("cascade")
    with pytest.raises(ValueError, match="no effect on a normalized classifier"):
        attach_calibration(seesaw, tau)
    attach_calibration(seesaw, NORCAL)
    with pytest.raises(ValueError, match="is of 4 classes, the model has 5"):
        attach_calibration(seesaw, Calibration("norcal", {"gamma": 1}, 4, class_counts=[1] * 4))
    assert calibration_of(seesaw) == NORCAL
    with pytest.raises(ValueError, match="LossDrivenOutputLayers, got FastRCNNOutputLayers"):
        attach_calibration(cascade_rcnn(), NORCAL)
    with pytest.raises(ValueError, match="LossDrivenOutputLayers, got Linear"):
        attach_calibration(nn.Linear(1, 1), NORCAL)


def test_a_checkpoints_calibration_is_applied_and_logged_unless_it_is_switched_off(caplog):
    model = mask_rcnn()
    entry = Calibration("norcal", {"gamma": 0.5}, 20, "foreground", range(20)).entry()
    with caplog.at_level(logging.INFO):
        assert apply_calibration(model, {}, "m.pth") is None
        assert apply_calibration(model, {"calibration": entry}, "m.pth", enabled=False) is None
        assert calibration_of(model) is None
        assert apply_calibration(model, {"calibration": entry}, "m.pth").entry() == entry
    assert calibration_of(model) is not None
    expected = ["m.pth, left out: NorCal, gamma 0.5", "m.pth: NorCal, gamma 0.5"]
    assert [r.message for r in caplog.records] == [f"Calibration of {end}" for end in expected]
    assert calibration_of(copy.deepcopy(model)).entry() == entry  # as the average of an EMA does
