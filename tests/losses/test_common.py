"""Input checks, precision and class counts of all losses, in one process."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from d2_seesaw.losses._common import (
    check_labels,
    check_logits,
    count_labels,
    full_precision,
    sum_over_ranks,
)
from d2_seesaw.losses._first_pass import once


@pytest.mark.parametrize("shape", [(3, 4), (0, 4)])
def test_logits_with_the_expected_width_pass(shape):
    check_logits(torch.zeros(shape), torch.zeros(shape[0]), 4, "one per class")


@pytest.mark.parametrize("shape", [(3, 5), (4,), (3, 4, 1)])
def test_wrong_logit_shapes_are_reported_with_the_expected_width(shape):
    expected = rf"\(R, 4\), one per class, got \({', '.join(map(str, shape))},?\)"
    with pytest.raises(ValueError, match=expected):
        check_logits(torch.zeros(shape), torch.zeros(shape[0]), 4, "one per class")


@pytest.mark.parametrize("shape", [(2,), (3, 1), ()])
def test_wrong_label_shapes_are_reported_with_the_expected_shape(shape):
    with pytest.raises(ValueError, match=r"labels must have shape \(3,\) .* logits \(3, 4\), got"):
        check_logits(torch.zeros(3, 4), torch.zeros(shape), 4, "one per class")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_the_smallest_and_the_largest_label_pass(dtype):
    check_labels(torch.tensor([0, 3, 1], dtype=dtype), 0, 3, "4 classes")


def test_empty_labels_pass():
    check_labels(torch.zeros(0), 0, 3, "4 classes")


@pytest.mark.parametrize(("labels", "wrong"), [([0, 4], 4), ([0, -1], -1), ([-7, 9], -7)])
def test_out_of_range_labels_are_reported_with_the_range(labels, wrong):
    with pytest.raises(ValueError, match=rf"be in \[0, 3\] \(4 classes\), got {wrong}$"):
        check_labels(torch.tensor(labels), 0, 3, "4 classes")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bool, torch.complex64])
def test_non_integer_labels_are_reported_with_their_dtype(dtype):
    with pytest.raises(ValueError, match=f"labels must be integers, got {dtype}"):
        check_labels(torch.zeros(3, dtype=dtype), 0, 3, "4 classes")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_full_precision_is_float32_or_higher(given, expected):
    x = torch.ones(2, dtype=given, requires_grad=True)
    full_precision(x).sum().backward()
    assert full_precision(x).dtype == expected
    assert_close(x.grad, torch.ones(2, dtype=given))


def test_only_kept_labels_are_counted():
    labels = torch.tensor([[0, 3, 3], [1, 255, 3]])
    keep = torch.tensor([[True, True, False], [True, False, True]])
    assert_close(count_labels(labels, keep, 5), torch.tensor([1, 1, 0, 2, 0]))


@pytest.mark.parametrize("shape", [(0,), (0, 3)])
def test_counts_of_empty_labels_are_zero(shape):
    labels = torch.zeros(shape).long()
    assert_close(count_labels(labels, labels == 0, 2), torch.tensor([0, 0]))


@pytest.mark.parametrize(
    ("training", "gradients", "expected"),
    [(True, True, True), (True, False, False), (False, True, False)],
)
def test_a_training_step_needs_training_mode_and_gradients(training, gradients, expected):
    steps = []

    def compute(is_training_step: bool) -> tuple[torch.Tensor]:
        steps.append(is_training_step)
        return (torch.ones(2),)

    with torch.set_grad_enabled(gradients):
        once(nn.Identity().train(training), compute)
    assert steps == [expected]


def test_one_process_is_one_rank():
    counts = torch.tensor([3, 4])
    assert sum_over_ranks(counts) == 1
    assert_close(counts, torch.tensor([3, 4]))
