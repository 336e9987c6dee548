"""Class-weighted cross-entropy against torch's, whole and in chunks."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from d2_seesaw.losses.dense import class_weighted_sum


@pytest.mark.parametrize("chunk_size", [None, 5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_is_torchs_weighted_sum(chunk_size, dtype):
    logits = torch.randn(2, 4, 3, 5, dtype=dtype, requires_grad=True)
    labels = torch.randint(4, (2, 3, 5))
    labels[1, 2] = 3
    weights = torch.tensor([0.1, 2.0, 0.0, 7.0], dtype=torch.float64)
    value = class_weighted_sum(logits, labels, weights, ignore_index=3, chunk_size=chunk_size)
    expected = F.cross_entropy(logits, labels, weights.to(dtype), ignore_index=3, reduction="sum")
    assert value.dtype == dtype
    assert_close(value, expected)
    (gradient,) = torch.autograd.grad(value, logits)
    assert_close(gradient, torch.autograd.grad(expected, logits)[0])


@pytest.mark.parametrize("chunk_size", [None, 1000])
def test_half_precision_sums_beyond_its_range_under_autocast(chunk_size):
    logits = torch.zeros(1, 2, 300, 300, dtype=torch.float16, requires_grad=True)
    labels = torch.zeros(1, 300, 300).long()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = class_weighted_sum(
            logits, labels, torch.tensor([2.0, 1]), ignore_index=255, chunk_size=chunk_size
        )
    assert_close(value, 2 * 90_000 * torch.tensor(2.0).log())
    value.backward()
    assert logits.grad.dtype == torch.float16
