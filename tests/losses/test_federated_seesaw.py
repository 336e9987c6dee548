"""Tests of the federated form of Seesaw Loss.

Shapes: R sampled RoIs, C = 5 classes, 5 is background.
"""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from d2_seesaw.losses import FederatedSeesawLoss, SeesawLoss, VerifiedClassificationLoss
from tests.reference import seesaw as reference

C = 5
COUNTS = torch.tensor([900, 40, 2, 1, 7, 0])


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Return float64 logits (R, C + 2), labels, and verified classes (R, C); R = 9."""
    labels = torch.tensor([0, 5, 2, 0, -1, 1, 5, 4, 3])
    verified = torch.tensor(
        [
            [1, 1, 0, 0, 1],
            [0, 0, 0, 0, 0],
            [1, 1, 1, 0, 1],
            [0, 0, 0, 1, 0],  # without the class of the RoI
            [1, 0, 0, 0, 0],
            [0, 1, 0, 0, 0],  # nothing competes
            [1, 1, 1, 1, 1],
            [1, 0, 0, 1, 1],
            [1, 1, 1, 1, 1],
        ]
    ).bool()
    return 2 * torch.randn(9, C + 2, dtype=torch.float64), labels, verified


def new_loss(kind: type[SeesawLoss] = FederatedSeesawLoss) -> SeesawLoss:
    loss = kind(C)
    loss.class_counts += COUNTS
    return loss


def losses_and_gradient(loss, logits: Tensor, *arguments: Tensor) -> tuple[Tensor, ...]:
    logits = logits.detach().requires_grad_()
    losses = loss(logits, *arguments)
    return *(x.detach() for x in losses.values()), torch.autograd.grad(
        sum(losses.values()), logits
    )[0]


def test_is_seesaw_loss_to_the_bit_if_all_classes_are_verified(batch):
    logits, labels, verified = batch
    ours, seesaw = new_loss(), new_loss(SeesawLoss)
    for given in (logits, logits.float(), logits.half()):
        expected = losses_and_gradient(seesaw, given, labels)
        everything = torch.ones_like(verified)
        assert_close(losses_and_gradient(ours, given, labels, everything), expected, rtol=0, atol=0)
        assert_close(ours.state_dict(), seesaw.state_dict(), rtol=0, atol=0)
        assert_close(ours.scores(given), seesaw.scores(given), rtol=0, atol=0)


def test_without_verified_classes_it_is_seesaw_loss(batch):
    expected = losses_and_gradient(new_loss(SeesawLoss), *batch[:2])
    assert_close(losses_and_gradient(new_loss(), *batch[:2]), expected, rtol=0, atol=0)


def test_each_roi_has_the_seesaw_loss_of_the_classes_that_compete(batch):
    logits, labels, verified = batch
    loss = new_loss()
    classes, objectness, gradient = losses_and_gradient(loss, logits, labels, verified)
    counts = loss.class_counts
    total, expected = 0.0, torch.zeros_like(logits)
    for i in (0, 2, 3, 5, 7, 8):
        label = int(labels[i])
        competing = [c for c in range(C) if verified[i, c] or c == label]
        values, row = reference.seesaw(
            logits[i : i + 1, competing],
            torch.tensor([competing.index(label)]),
            counts[competing],
            0.8,
            2.0,
        )
        total += float(values.sum())
        expected[i, competing] = row[0]
    assert classes.item() == pytest.approx(total / 8, rel=1e-9)
    assert_close(8 * gradient[:, :C], expected[:, :C], rtol=1e-9, atol=1e-12)
    plain = losses_and_gradient(new_loss(SeesawLoss), logits, labels)
    assert_close((objectness, gradient[:, C:]), (plain[1], plain[2][:, C:]))
    left_out = ~verified & (labels[:, None] != torch.arange(C))
    assert not gradient[:, :C][left_out].any()


@pytest.mark.parametrize("labels", [[], [-1, -1], [5, 5]], ids=["no RoIs", "ignored", "background"])
def test_batches_without_classes_have_no_class_loss(labels):
    loss = new_loss()
    labels = torch.tensor(labels, dtype=torch.int64)
    nothing = torch.zeros(len(labels), C, dtype=torch.bool)
    classes, _, gradient = losses_and_gradient(loss, torch.randn(len(labels), 7), labels, nothing)
    assert classes == 0
    assert not gradient[:, :C].any()


@pytest.mark.slow
def test_compiled_losses_match_eager_ones(batch):
    loss = new_loss().eval()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert_close(losses_and_gradient(compiled, *batch), losses_and_gradient(loss, *batch))


def test_it_asks_for_verified_classes_and_seesaw_loss_does_not():
    assert isinstance(FederatedSeesawLoss(C), VerifiedClassificationLoss)
    assert not isinstance(SeesawLoss(C), VerifiedClassificationLoss)


@pytest.mark.parametrize("wrong", [torch.zeros(9, C), torch.zeros(8, C, dtype=torch.bool)])
def test_other_dtypes_and_shapes_are_rejected(batch, wrong):
    loss = new_loss()
    with pytest.raises(ValueError, match=r"must be booleans of shape \(9, 5\), got torch\."):
        loss(*batch[:2], wrong)
    assert loss.class_counts.tolist() == COUNTS.tolist()
