"""Counts are exact, and statistics change in training steps only. Ranks: tests/distributed."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from d2_seesaw.losses._common import count_labels, is_training_step, sum_over_ranks


def test_counts_what_is_kept_of_each_class():
    labels = torch.tensor([[0, 3, 3], [1, 255, 3]])
    keep = torch.tensor([[True, True, False], [True, False, True]])
    assert_close(count_labels(labels, keep, 5), torch.tensor([1, 1, 0, 2, 0]))


@pytest.mark.parametrize("shape", [(0,), (0, 3)])
def test_nothing_to_count(shape):
    labels = torch.zeros(shape).long()
    assert_close(count_labels(labels, labels == 0, 2), torch.tensor([0, 0]))


@pytest.mark.parametrize(
    ("training", "gradients", "expected"),
    [(True, True, True), (True, False, False), (False, True, False)],
)
def test_a_training_step_has_training_mode_and_gradients(training, gradients, expected):
    with torch.set_grad_enabled(gradients):
        assert is_training_step(nn.Identity().train(training)) is expected


def test_one_process_is_one_rank():
    counts = torch.tensor([3, 4])
    assert sum_over_ranks(counts) == 1
    assert_close(counts, torch.tensor([3, 4]))
