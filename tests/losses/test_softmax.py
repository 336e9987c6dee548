"""Tests of the softmax baseline: PyTorch's cross-entropy with Seesaw's conventions for RoIs."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from d2_seesaw.losses import SeesawLoss, SoftmaxLoss


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


def test_scores_are_the_softmax(batch):
    scores = SoftmaxLoss(4).scores(batch[0])
    assert_close(scores, batch[0].exp() / batch[0].exp().sum(1, keepdim=True))


def test_float64_logits_give_float64_losses_to_full_precision(batch):
    # A float32 normalizer would limit the losses to 7 digits.
    logits, labels = batch[0].double(), batch[1]
    assert_close(
        SoftmaxLoss(4)(logits, labels)["loss_cls"],
        F.cross_entropy(logits, labels),
        rtol=1e-14,
        atol=0,
    )


@pytest.mark.parametrize("labels", [[0, 4, 2, 0, 3, 1, 4], [4, 4, -1, 4, -1, 4, 4]], ids=str)
def test_with_objectness_it_is_seesaw_loss_with_both_factors_off(labels):
    logits, labels = 2 * torch.randn(7, 6), torch.tensor(labels)
    ours, seesaw = SoftmaxLoss(4, objectness=True), SeesawLoss(4, p=0, q=0)
    assert ours.num_logits == seesaw.num_logits
    assert_close(ours(logits, labels), seesaw(logits, labels))
    assert_close(ours.scores(logits), seesaw.scores(logits), rtol=0, atol=0)
    assert not ours.state_dict()


def test_print_shows_the_hyper_parameters():
    text = "SoftmaxLoss(num_classes=4, objectness=False, loss_weight=1.0, sync=False)"
    assert repr(SoftmaxLoss(4)) == text
