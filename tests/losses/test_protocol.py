"""Every loss for detection can be given to a predictor, every other one to a dense head."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from d2_seesaw import losses
from d2_seesaw.losses import (
    ClassificationLoss,
    InverseFrequencyLoss,
    RecallLoss,
    SeesawCrossEntropyLoss,
    SeesawLoss,
    SoftmaxLoss,
)

DENSE = [SeesawCrossEntropyLoss, RecallLoss, InverseFrequencyLoss]
every_loss = pytest.mark.parametrize(
    "loss", [SeesawLoss(4), SoftmaxLoss(4)], ids=["seesaw", "softmax"]
)


def test_every_loss_of_the_package_is_tested_here():
    modules = {
        name
        for name in losses.__all__
        if isinstance(getattr(losses, name), type) and issubclass(getattr(losses, name), nn.Module)
    }
    assert modules == {"SeesawLoss", "SoftmaxLoss", *(loss.__name__ for loss in DENSE)}


@pytest.mark.parametrize("kind", DENSE)
@pytest.mark.parametrize("size", [(), (3, 2)], ids=["samples", "images"])
def test_dense_losses_are_called_like_torchs_cross_entropy(kind, size):
    loss, of_torch = kind(4, ignore_index=9), nn.CrossEntropyLoss(ignore_index=9)
    logits = torch.randn(5, 4, *size, requires_grad=True)
    labels = torch.randint(4, (5, *size))
    labels[0] = 9
    value = loss(logits, labels)
    assert value.shape == of_torch(logits, labels).shape
    (gradient,) = torch.autograd.grad(value, logits)
    assert gradient[0].abs().sum() == 0
    assert gradient[1:].abs().sum() > 0
    assert loss.ignore_index == of_torch.ignore_index


@pytest.mark.parametrize("kind", DENSE)
def test_a_class_cannot_be_the_ignored_label(kind):
    kind(255)
    kind(1000, ignore_index=-1)
    with pytest.raises(ValueError, match="ignore_index is 255, which is one of the 256 classes"):
        kind(256)


@every_loss
def test_loss_follows_the_protocol(loss):
    assert isinstance(loss, ClassificationLoss)


@pytest.mark.parametrize("missing", ["num_classes", "num_logits", "scores"])
def test_a_module_that_lacks_a_part_does_not_follow_the_protocol(missing):
    module = nn.Module()
    module.num_classes, module.num_logits, module.scores = 4, 5, torch.softmax
    assert isinstance(module, ClassificationLoss)
    delattr(module, missing)
    assert not isinstance(module, ClassificationLoss)


@every_loss
def test_scores_have_one_column_per_class_and_background_last(loss):
    logits = torch.randn(3, loss.num_logits)
    logits[:, -1] = 50  # of all losses the last logit is that of background
    scores = loss.scores(logits)
    assert_close(scores, torch.tensor([0.0, 0, 0, 0, 1]).expand(3, 5))


@every_loss
def test_losses_are_scalars_with_a_gradient_by_name(loss):
    logits = torch.randn(3, loss.num_logits, requires_grad=True)
    values = loss(logits, torch.tensor([0, 4, -1]))
    assert all(name.startswith("loss_") for name in values)
    sum(values.values()).backward()
    assert logits.grad.abs().sum() > 0
