"""Tests of the softmax baseline: PyTorch's cross-entropy with Seesaw's conventions for RoIs."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from d2_seesaw.losses import SoftmaxLoss


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Return logits (R, C + 1) and labels; C = 4, background 4."""
    return 2 * torch.randn(7, 5), torch.tensor([0, 4, 2, 0, 3, 1, 4])


def loss_and_gradient(loss: nn.Module, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.clone().requires_grad_()
    value = loss(logits, labels)["loss_cls"]
    return value, torch.autograd.grad(value, logits)[0]


def test_is_the_mean_cross_entropy(batch):
    logits, labels = batch
    value, gradient = loss_and_gradient(SoftmaxLoss(4), logits, labels)
    assert_close(value, F.cross_entropy(logits, labels))
    assert_close(gradient, (logits.softmax(1) - F.one_hot(labels, 5)) / 7)


def test_has_one_loss_and_c_plus_1_logits(batch):
    assert SoftmaxLoss(4).num_logits == 5
    assert list(SoftmaxLoss(4)(*batch)) == ["loss_cls"]


def test_loss_weight_scales_the_loss(batch):
    assert_close(SoftmaxLoss(4, loss_weight=0.25)(*batch)["loss_cls"], F.cross_entropy(*batch) / 4)


def test_ignored_rois_have_no_effect(batch):
    logits, labels = batch
    labels[[1, 4]] = -1
    value, gradient = loss_and_gradient(SoftmaxLoss(4), logits, labels)
    kept = labels >= 0
    expected, expected_gradient = loss_and_gradient(SoftmaxLoss(4), logits[kept], labels[kept])
    assert_close(value, expected)
    assert_close(gradient[kept], expected_gradient)
    assert_close(gradient[~kept], torch.zeros(2, 5))


@pytest.mark.parametrize("labels", [[], [-1, -1]], ids=["no RoIs", "all ignored"])
def test_batches_without_valid_labels_give_zero_loss_and_gradients(labels):
    labels = torch.tensor(labels, dtype=torch.int64)
    value, gradient = loss_and_gradient(SoftmaxLoss(4), torch.randn(len(labels), 5), labels)
    assert_close(value, torch.tensor(0.0))
    assert_close(gradient, torch.zeros(len(labels), 5))


def test_scores_are_the_softmax(batch):
    scores = SoftmaxLoss(4).scores(batch[0])
    assert_close(scores, batch[0].exp() / batch[0].exp().sum(1, keepdim=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_float32(batch, dtype):
    logits, labels = (60 * batch[0]).clamp(-60, 60).to(dtype), batch[1]
    loss = SoftmaxLoss(4)
    assert_close(loss(logits, labels), loss(logits.float(), labels), rtol=0, atol=0)
    assert_close(loss.scores(logits), logits.float().softmax(1), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_changes_nothing(batch, dtype):
    loss = SoftmaxLoss(4)
    expected = loss(*batch), loss.scores(batch[0])
    with torch.autocast("cpu", dtype):
        assert_close((loss(*batch), loss.scores(batch[0])), expected, rtol=0, atol=0)


def test_float64_logits_give_float64_losses_to_full_precision(batch):
    # A float32 normalizer would limit the losses to 7 digits.
    logits, labels = batch[0].double(), batch[1]
    assert_close(
        SoftmaxLoss(4)(logits, labels)["loss_cls"],
        F.cross_entropy(logits, labels),
        rtol=1e-14,
        atol=0,
    )


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ((2, 6), [0, 1], r"must have shape \(R, 5\), 4 classes and background, got \(2, 6\)"),
        ((2, 5), [0, 5], r"labels must be in \[-1, 4\] \(4 classes, then background; .*, got 5"),
    ],
)
def test_rejects_inconsistent_inputs(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        SoftmaxLoss(4)(torch.zeros(logits), torch.tensor(labels))


def test_zero_classes_are_rejected():
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        SoftmaxLoss(0)


def test_print_shows_the_hyper_parameters():
    assert repr(SoftmaxLoss(4)) == "SoftmaxLoss(num_classes=4, loss_weight=1.0)"
