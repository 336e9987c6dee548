"""A sum in chunks equals the sum at once: value, gradient, and what autograd keeps meanwhile."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from d2_seesaw.losses.dense import check_chunk_size, sum_in_chunks
from tests.support.operators import OperatorLog

SHAPES = [(7, 4), (2, 4, 5), (2, 4, 3, 5), (3, 4, 2, 3, 2)]
CHUNKS = [1, 4, 7, 1000]


def cross_entropy(logits, labels):
    return F.cross_entropy(logits, labels, reduction="sum")


def random_batch(shape, dtype=torch.float64):
    logits = torch.randn(shape, dtype=dtype, requires_grad=True)
    return logits, torch.randint(shape[1], (shape[0], *shape[2:]))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("chunk_size", CHUNKS)
def test_value_and_gradient_are_those_of_the_whole(shape, chunk_size):
    logits, labels = random_batch(shape)
    total = sum_in_chunks(cross_entropy, logits, labels, chunk_size)
    assert_close(total, cross_entropy(logits, labels))
    (gradient,) = torch.autograd.grad(3 * total, logits)
    (expected,) = torch.autograd.grad(3 * cross_entropy(logits, labels), logits)
    assert_close(gradient, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_any_memory_format(memory_format):
    logits, labels = random_batch((2, 4, 3, 5))
    logits = logits.detach().contiguous(memory_format=memory_format).requires_grad_()
    total = sum_in_chunks(cross_entropy, logits, labels, 4)
    (gradient,) = torch.autograd.grad(total, logits)
    (expected,) = torch.autograd.grad(cross_entropy(logits, labels), logits)
    assert_close(gradient, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("chunk_size", CHUNKS[:-1])
def test_no_chunk_is_larger_than_asked_for(chunk_size):
    sizes = []

    def note(logits, labels):
        assert logits.shape[::2] == labels.shape
        sizes.append(labels.numel())
        return logits.sum()

    logits, labels = random_batch((2, 4, 3, 5))
    sum_in_chunks(note, logits, labels, chunk_size)
    assert sum(sizes) == 30
    assert max(sizes) == chunk_size


@pytest.mark.parametrize("chunk_size", [30, None])
def test_what_fits_into_one_chunk_is_left_to_autograd(chunk_size):
    logits, labels = random_batch((2, 4, 3, 5))
    total = sum_in_chunks(cross_entropy, logits, labels, chunk_size)
    (gradient,) = torch.autograd.grad(total, logits, create_graph=True)
    torch.autograd.grad(gradient.square().sum(), logits)  # twice differentiable


def test_a_chunk_size_below_one_is_named():
    check_chunk_size(None)
    check_chunk_size(1)
    with pytest.raises(ValueError, match="chunk_size must be at least 1 or None, got 0"):
        check_chunk_size(0)


def test_without_gradients_none_are_computed():
    logits, labels = random_batch((2, 4, 3, 5))
    with torch.no_grad():
        total = sum_in_chunks(cross_entropy, logits, labels, 4)
    assert not total.requires_grad
    detached = sum_in_chunks(cross_entropy, logits.detach(), labels, 4)
    assert not detached.requires_grad
    assert_close(detached, cross_entropy(logits, labels).detach())


def test_no_pixels_are_zero():
    logits, labels = random_batch((0, 4, 3, 5))
    total = sum_in_chunks(cross_entropy, logits, labels, 4)
    total.backward()
    assert total.item() == 0
    assert logits.grad.shape == logits.shape


def test_half_precision_logits_give_a_float32_sum_and_their_own_gradient():
    logits, labels = random_batch((1, 4, 100, 100), torch.float16)

    def in_float32(logits, labels):
        return 10 * cross_entropy(logits.float(), labels)

    total = sum_in_chunks(in_float32, logits, labels, 64)
    assert total.dtype == torch.float32
    assert total > torch.finfo(torch.float16).max
    total.backward()
    assert logits.grad.dtype == torch.float16
    assert logits.grad.isfinite().all()


def test_between_forward_and_backward_one_gradient_is_kept():
    saved = []

    def keep(tensor):
        saved.append(tensor.untyped_storage().nbytes())
        return tensor

    logits, labels = random_batch((1, 19, 64, 64), torch.float32)

    def wasteful(logits, labels):
        return (logits.exp().log().exp().log().sum() * 0) + cross_entropy(logits, labels)

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        wasteful(logits, labels)
        at_once = sum(saved)
        saved.clear()
        with OperatorLog() as log:
            sum_in_chunks(wasteful, logits, labels, 256)
    assert saved[-1] == logits.nbytes
    assert at_once > 3 * logits.nbytes
    # Each piece keeps only what a piece needs.
    assert all(nbytes <= logits.nbytes for nbytes in saved)
    assert log.largest <= logits.nbytes
