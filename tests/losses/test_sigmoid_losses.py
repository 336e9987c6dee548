"""Memory, synchronizations and checks of the losses with a sigmoid per class.

Shapes: R sampled RoIs, C = 4 classes, 4 is background.
"""

import copy

import pytest
import torch
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
