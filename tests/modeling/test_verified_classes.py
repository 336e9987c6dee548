"""Tests that verified classes reach every loss that asks for them, in all kinds of ROI heads."""

from unittest import mock

import pytest
import torch

from d2_seesaw.losses import FederatedSeesawLoss
from d2_seesaw.modeling import FederatedDualHeadRCNN, FederatedRCNN, LossDrivenOutputLayers
from tests.modeling.roi_heads import dual_parts, parts, tsd_parts

pytestmark = pytest.mark.usefixtures("storage")
LABELS = ((0, 2, 2), (), (4,), ())
NEGATIVES = ([1, 2], [0, 3], [], [])
VERIFIED = ([0, 1, 2], [0, 3], [4], [])  # negatives, and the classes of objects
DETECTRON2 = {"resample": False, "stage_loss_weights": None}
KINDS = {
    "Mask R-CNN": ("plain", {}),
    "cascade as in mmdet": ("cascade", {}),
    "cascade as in Detectron2": ("cascade", DETECTRON2),
    "class-specific boxes": ("cascade", {"predictors": {"cls_agnostic_bbox_reg": False}}),
    "HTC-Lite": ("htc_lite", {}),
    "TSD": ("tsd", {}),
    "HTC-Lite with TSD": ("tsd_htc_lite", {"mask_rois": "refined"}),
}
every_kind = pytest.mark.parametrize(("kind", "options"), KINDS.values(), ids=KINDS.keys())


def inputs():
    images = dual_parts.images(LABELS)
    return [image | {"negative_classes": n} for image, n in zip(images, NEGATIVES, strict=True)]


@pytest.fixture
def calls(monkeypatch):
    """Replace Seesaw Loss by its federated form; return the arguments of its calls."""
    monkeypatch.setattr(tsd_parts, "SeesawLoss", FederatedSeesawLoss)
    found = []
    classify = LossDrivenOutputLayers._classification_losses

    def note(self, cls_loss, logits, labels, proposals, log_as):
        with mock.patch.object(cls_loss, "forward", wraps=cls_loss.forward) as forward:
            losses = classify(self, cls_loss, logits, labels, proposals, log_as)
        (call,) = forward.call_args_list
        found.append((call.kwargs["verified_classes"], [len(p) for p in proposals]))
        return losses

    monkeypatch.setattr(LossDrivenOutputLayers, "_classification_losses", note)
    return found


def check(calls, number):
    assert len(calls) == number
    for verified, rois in calls:
        assert len(rois) == len(VERIFIED)
        assert min(rois) > 0
        for rows, classes in zip(verified.split(rois), VERIFIED, strict=True):
            expected = torch.zeros(parts.C, dtype=torch.bool)
            expected[classes] = True
            assert (rows == expected).all()


@every_kind
def test_each_roi_has_the_verified_classes_of_its_image(calls, kind, options):
    options = {"predictors": {"seesaw": True}} | options
    model = dual_parts.model(
        kind, model_class=FederatedRCNN, predictors=options.pop("predictors"), **options
    )
    losses = model.train()(inputs())
    check(calls, (1 if kind == "plain" else 3) * (2 if "tsd" in kind else 1))
    assert all(loss.isfinite() for loss in losses.values())


@every_kind
def test_each_roi_of_a_dual_head_has_the_verified_classes_of_its_image(calls, kind, options):
    options = {k: v for k, v in options.items() if k != "mask_rois"}
    model = dual_parts.model(kind, dual=True, model_class=FederatedDualHeadRCNN, **options)
    losses = model.train()(inputs())
    check(calls, 1 if kind == "plain" else 3)
    assert all(name.endswith("_new") or "_new_stage" in name for name in losses)


def test_losses_differ_from_seesaw_loss_only_by_the_classes_that_are_not_verified(monkeypatch):
    everything = [range(parts.C)] * len(LABELS)
    given = inputs()
    found = []
    for kind, negatives in (("SeesawLoss", NEGATIVES), ("Fed", everything), ("Fed", NEGATIVES)):
        if kind == "Fed":
            monkeypatch.setattr(tsd_parts, "SeesawLoss", FederatedSeesawLoss)
        torch.manual_seed(3)
        model = dual_parts.model("cascade", model_class=FederatedRCNN)
        batch = [
            image | {"negative_classes": list(n)} for image, n in zip(given, negatives, strict=True)
        ]
        torch.manual_seed(4)
        found.append(model.train()(batch))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)
    for name, loss in found[2].items():
        if "cls_classes" in name:
            assert loss < found[0][name]
        elif "stage0" in name:  # the boxes of later stages are the same, too: they are agnostic
            assert loss == found[0][name]


def test_inference_needs_no_verified_classes(calls):
    model = dual_parts.model("cascade", model_class=FederatedRCNN).eval()
    plain = [{k: image[k] for k in ("image", "height", "width")} for image in inputs()]
    with torch.no_grad():
        assert len(model(plain)) == len(plain)
