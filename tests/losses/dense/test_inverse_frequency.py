"""Inverse-frequency cross-entropy against torch's weighted cross-entropy."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from d2_seesaw.losses import InverseFrequencyLoss

COUNTS = [4000, 20, 1, 0]


@pytest.fixture
def batch():
    labels = torch.tensor([[[0, 1, 2], [3, 0, 255]]])
    return torch.randn(1, 4, 2, 3, dtype=torch.float64, requires_grad=True), labels


@pytest.mark.parametrize("power", [1.0, 0.5, 0.0])
def test_equals_torchs_weighted_cross_entropy(batch, power):
    weights = torch.tensor([n**-power for n in (4000, 20, 1, 1)], dtype=torch.float64)
    expected = F.cross_entropy(*batch, weights, ignore_index=255)
    loss = InverseFrequencyLoss(4, class_counts=COUNTS, power=power)
    value = loss(*batch)
    assert_close(value, expected)
    (gradient,) = torch.autograd.grad(value, batch[0])
    assert_close(gradient, torch.autograd.grad(expected, batch[0])[0])
    assert loss.class_counts.tolist() == COUNTS


def test_counts_labels_of_training_steps_by_default(batch):
    loss = InverseFrequencyLoss(4)
    _, value = [loss(*batch) for _ in range(2)]
    assert loss.class_counts.tolist() == [4, 2, 2, 2]
    weights = torch.tensor([0.5, 1, 1, 1], dtype=torch.float64)
    assert_close(value, F.cross_entropy(*batch, weights, ignore_index=255))


def test_counts_of_a_trillion_pixels_keep_their_ratio(batch):
    small = InverseFrequencyLoss(4, class_counts=[4000, 20, 1, 2])
    large = InverseFrequencyLoss(4, class_counts=[n * 2**40 for n in (4000, 20, 1, 2)])
    logits, labels = batch
    assert_close(large(logits.float(), labels), small(logits.float(), labels))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 2, "power": -1}, "power must be 0 or more, got -1"),
        ({"num_classes": 2, "class_counts": [1]}, r"must be 2 numbers, 0 or more, got \[1\]"),
        ({"num_classes": 2, "class_counts": [1, -1]}, r"must be 2 numbers.* got \[1, -1\]"),
    ],
)
def test_a_hyper_parameter_out_of_range_is_reported(options, message):
    with pytest.raises(ValueError, match=message):
        InverseFrequencyLoss(**options)
