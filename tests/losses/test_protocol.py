"""Tests that every RoI loss follows the protocol of the box predictors."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from d2_seesaw import losses
from d2_seesaw.losses import ClassificationLoss, SeesawLoss, SoftmaxLoss

EXPORTED = [kind for kind in map(vars(losses).get, losses.__all__) if isinstance(kind, type)]
LOSSES = [k for k in EXPORTED if issubclass(k, nn.Module) and ".dense." not in k.__module__]
every_loss = pytest.mark.parametrize("loss", [k(4) for k in LOSSES], ids=lambda k: type(k).__name__)


def test_every_roi_loss_is_exported():
    assert {SeesawLoss, SoftmaxLoss} <= set(LOSSES)


@every_loss
def test_loss_follows_the_protocol(loss):
    assert isinstance(loss, ClassificationLoss)


@pytest.mark.parametrize("missing", ["num_classes", "num_logits", "scores"])
def test_a_module_that_lacks_a_member_does_not_follow_the_protocol(missing):
    module = nn.Module()
    module.num_classes, module.num_logits, module.scores = 4, 5, torch.softmax
    assert isinstance(module, ClassificationLoss)
    delattr(module, missing)
    assert not isinstance(module, ClassificationLoss)


@every_loss
def test_scores_have_one_column_per_class_and_background_last(loss):
    logits = torch.randn(3, loss.num_logits)
    logits[:, -1] = 50  # the last logit is background in every loss
    scores = loss.scores(logits)
    assert_close(scores, torch.tensor([0.0, 0, 0, 0, 1]).expand(3, 5))


@every_loss
def test_losses_are_scalars_with_a_gradient_by_name(loss):
    logits = torch.randn(3, loss.num_logits, requires_grad=True)
    values = loss(logits, torch.tensor([0, 4, -1]))
    assert all(name.startswith("loss_") for name in values)
    sum(values.values()).backward()
    assert logits.grad.abs().sum() > 0
