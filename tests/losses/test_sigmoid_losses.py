"""Tests that hold for every loss with a sigmoid per class.

Shapes: R sampled RoIs, C = 4 classes, 4 is background.
"""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from d2_seesaw.losses import ECMLoss, EqualizationLossV2, FederatedLoss
from tests.support.operators import OperatorLog

C = 4
COUNTS = [900, 40, 1, 7]
LOSSES = {
    "federated": lambda **options: FederatedLoss(C, class_counts=COUNTS, num_sampled=5, **options),
    "all classes": lambda **options: FederatedLoss(C, num_sampled=None, **options),
    "equalization v2": lambda **options: EqualizationLossV2(C, **options),
    "ecm": lambda **options: ECMLoss(C, COUNTS, **options),
}
every_loss = pytest.mark.parametrize("new_loss", LOSSES.values(), ids=LOSSES.keys())


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Return float64 logits (R, C + 1) and labels of every class; R = 14."""
    labels = torch.tensor([0, 4, 2, 0, 4, 1, 4, 4, 3, 0, 0, 4, 2, 4])
    return 2 * torch.randn(14, 5, dtype=torch.float64), labels


def step(loss: nn.Module, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss and its gradient."""
    logits = logits.detach().requires_grad_()
    value = loss(logits, labels)["loss_cls"]
    return value.detach(), torch.autograd.grad(value, logits)[0]


@every_loss
def test_ignored_rois_have_no_effect(new_loss, batch):
    logits, labels = batch
    ignored = [0, 3, 4, 9, 13]
    labels = labels.index_fill(0, torch.tensor(ignored), -1)
    kept = labels >= 0
    with_ignored, without = new_loss(), new_loss()
    for _ in range(3):
        value, gradient = step(with_ignored, logits, labels)
        expected = step(without, logits[kept], labels[kept])
        assert_close((value, gradient[kept]), expected, rtol=0, atol=1e-13)
        assert not gradient[ignored].any()
    assert_close(with_ignored.state_dict(), without.state_dict(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("labels", [[], [-1, -1]], ids=["no RoIs", "all ignored"])
@every_loss
def test_batches_without_valid_labels_give_zero_loss_and_change_nothing(new_loss, labels):
    loss = new_loss()
    step(loss, torch.randn(3, 5), torch.tensor([0, 2, 4]))
    before = copy.deepcopy(loss.state_dict())
    labels = torch.tensor(labels, dtype=torch.int64)
    value, gradient = step(loss, torch.randn(len(labels), 5), labels)
    assert_close((value, gradient), (torch.tensor(0.0), torch.zeros(len(labels), 5)))
    assert_close(loss.state_dict(), before, rtol=0, atol=0)
    assert loss.scores(torch.zeros(0, 5)).shape == (0, 5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_loss
def test_half_precision_gives_the_float32_losses_and_scores(new_loss, batch, dtype):
    logits, labels = (30 * batch[0]).clamp(-60, 60).to(dtype), batch[1]
    half, single = new_loss(), new_loss()
    for _ in range(2):
        value, gradient = step(half, logits, labels)
        expected, expected_gradient = step(single, logits.float(), labels)
        assert math.isfinite(value)
        assert_close(value, expected, rtol=0, atol=0)
        assert_close(gradient, expected_gradient.to(dtype), rtol=0, atol=0)
    assert_close(half.scores(logits), single.scores(logits.float()), rtol=0, atol=0)
    assert_close(half.state_dict(), single.state_dict(), rtol=0, atol=0)


@every_loss
def test_autocast_changes_nothing(new_loss, batch):
    logits, labels = batch[0].float(), batch[1]
    cast, plain = new_loss(), new_loss()
    for _ in range(2):
        expected = step(plain, logits, labels), plain.scores(logits)
        with torch.autocast("cpu", torch.bfloat16):
            actual = step(cast, logits, labels), cast.scores(logits)
        assert_close(actual, expected, rtol=0, atol=0)


@every_loss
def test_float64_losses_have_full_precision_and_float32_losses_are_close(new_loss, batch):
    logits, labels = batch
    double, single = new_loss(loss_weight=0.7), new_loss(loss_weight=0.7)
    for _ in range(2):
        value, gradient = step(double, logits, labels)
        assert value.dtype == gradient.dtype == double.scores(logits).dtype == torch.float64
        found = step(single, logits.float(), labels)
        assert_close(found, (value.float(), gradient.float()), rtol=1e-5, atol=1e-6)


@every_loss
def test_extreme_logits_give_finite_losses_and_gradients(new_loss):
    logits = torch.tensor([[200.0, -200.0, 0.0, 1e4, -1e4], [-1e4, 1e4, -200.0, 200.0, 1e4]])
    loss = new_loss()
    for labels in ([0, 4], [1, 0], [4, 2]):
        value, gradient = step(loss, logits, torch.tensor(labels))
        assert value.isfinite()
        assert gradient.isfinite().all()


@every_loss
def test_validation_changes_no_state(new_loss, batch):
    loss = new_loss()
    step(loss, *batch)
    before = copy.deepcopy(loss.state_dict())
    with torch.no_grad():
        loss(*batch)
    loss.eval()
    step(loss, *batch)
    assert_close(loss.state_dict(), before, rtol=0, atol=0)


@every_loss
def test_a_restored_state_continues_exactly(new_loss, batch):
    logits, labels = batch
    first, second = new_loss(), new_loss()
    for shift in range(3):
        step(first, logits.roll(shift), labels)
    second.load_state_dict(first.state_dict())
    for shift in range(3, 5):
        torch.manual_seed(shift)
        expected = step(first, logits.roll(shift), labels)
        torch.manual_seed(shift)
        assert_close(step(second, logits.roll(shift), labels), expected, rtol=0, atol=0)
    assert_close(second.state_dict(), first.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("num_classes", [3, 1203])
@pytest.mark.parametrize("kind", ["federated", "equalization v2", "ecm"])
def test_no_operator_reads_from_the_device_or_exceeds_the_logits(kind, num_classes):
    counts = [5] * num_classes
    loss = {
        "federated": lambda: FederatedLoss(num_classes, class_counts=counts),
        "equalization v2": lambda: EqualizationLossV2(num_classes),
        "ecm": lambda: ECMLoss(num_classes, counts),
    }[kind]()
    logits = torch.randn(64, num_classes + 1, requires_grad=True)
    labels = torch.randint(-1, num_classes + 1, (64,))
    loss(logits, labels)  # reads the class counts
    with OperatorLog() as log:
        loss(logits, labels)["loss_cls"].backward()
    # The range of the labels, the only value that is read, is not an operator on the CPU.
    synchronizing = ("_local_scalar_dense", "nonzero", "_unique2", "multinomial", "bincount")
    assert not any(log.calls[f"aten.{name}"] for name in synchronizing)
    assert log.largest <= logits.nbytes


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ((2, 6), [0, 1], r"must have shape \(R, 5\), 4 classes and .*, got \(2, 6\)"),
        ((2, 5), [0, 5], r"labels must be in \[-1, 4\] \(4 classes, then background; .*, got 5"),
        ((2, 5), [0.0, 1.0], r"labels must be integers, got torch\.float32"),
    ],
)
@every_loss
def test_inconsistent_inputs_are_rejected(new_loss, logits, labels, message):
    loss = new_loss()
    before = copy.deepcopy(loss.state_dict())
    with pytest.raises(ValueError, match=message):
        loss(torch.zeros(logits, requires_grad=True), torch.tensor(labels))
    assert_close(loss.state_dict(), before, rtol=0, atol=0)
