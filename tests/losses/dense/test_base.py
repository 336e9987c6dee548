"""Tests of all dense losses, and of sums in chunks.

Shapes: N images, C classes.
"""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from d2_seesaw import losses
from d2_seesaw.losses import DenseLoss, InverseFrequencyLoss, RecallLoss, SeesawCrossEntropyLoss
from d2_seesaw.losses.dense.base import sum_in_chunks
from tests.support.dense import flat, gradient_of
from tests.support.operators import OperatorLog

C = 5
EXPORTED = [kind for kind in map(vars(losses).get, losses.__all__) if isinstance(kind, type)]
CLASSES = {k.__name__: k for k in EXPORTED if issubclass(k, DenseLoss) and k is not DenseLoss}
LOSSES = CLASSES | {
    "sampled seesaw": partial(SeesawCrossEntropyLoss, sample_size=11),
    "running recall": partial(RecallLoss, momentum=0.9),
    "weighted recall": partial(RecallLoss, reduction="weighted_mean"),
}
every_loss = pytest.mark.parametrize("kind", LOSSES.values(), ids=LOSSES)
every_class = pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)


def seeded(loss, logits, labels):
    """Compute the loss, with the same sampled pixels in each call."""
    torch.manual_seed(0)
    return loss(logits, labels)


def test_every_dense_loss_is_exported():
    assert {SeesawCrossEntropyLoss, RecallLoss, InverseFrequencyLoss} <= set(CLASSES.values())


# --- the base class ---


class FixedWeights(DenseLoss):
    weights = torch.tensor([0.1, 2.0, 0.0, 7.0, 1.0], dtype=torch.float64)

    def weigh(self, counts):
        return self.weights, (self.weights * counts).sum()


@pytest.mark.parametrize("chunk_size", [None, 7])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_fixed_class_weights_give_torchs_weighted_cross_entropy(batch, chunk_size, dtype):
    logits, labels = batch[0].to(dtype).requires_grad_(), batch[1]
    value = FixedWeights(C, chunk_size=chunk_size)(logits, labels)
    expected = F.cross_entropy(logits, labels, FixedWeights.weights.to(dtype), ignore_index=255)
    assert_close(value, expected)
    assert_close(gradient_of(value, logits), gradient_of(expected, logits))


@every_class
@pytest.mark.parametrize("size", [(), (3, 2)], ids=["samples", "images"])
def test_has_the_call_signature_of_torchs_cross_entropy(kind, size):
    loss, reference = kind(4, ignore_index=9), nn.CrossEntropyLoss(ignore_index=9)
    logits = torch.randn(5, 4, *size, requires_grad=True)
    labels = torch.randint(4, (5, *size))
    labels[0] = 9
    value = loss(logits, labels)
    assert value.shape == reference(logits, labels).shape
    gradient = gradient_of(value, logits)
    assert gradient[0].abs().sum() == 0
    assert gradient[1:].abs().sum() > 0
    assert loss.ignore_index == reference.ignore_index


@every_loss
@pytest.mark.parametrize("chunk_size", [1, 7, 20, 1000])
@pytest.mark.parametrize("layout", ["images", "samples"])
def test_neither_chunks_nor_layout_change_value_gradient_or_state(batch, kind, chunk_size, layout):
    logits, labels = batch[0].requires_grad_(), batch[1]
    whole, chunked = kind(C, chunk_size=None), kind(C, chunk_size=chunk_size)
    given = (logits, labels) if layout == "images" else flat(logits, labels)
    expected, value = seeded(whole, logits, labels), seeded(chunked, *given)
    assert_close(value, expected, rtol=1e-13, atol=0)
    gradient = gradient_of(value, logits)
    assert_close(gradient, gradient_of(expected, logits), rtol=1e-12, atol=1e-15)
    assert_close(dict(chunked.state_dict()), dict(whole.state_dict()))


@every_loss
def test_loss_weight_scales_the_loss(batch, kind):
    expected = 2.5 * seeded(kind(C), *batch)
    assert_close(seeded(kind(C, loss_weight=2.5), *batch), expected)


@every_loss
def test_uint8_labels_are_accepted(batch, kind):
    logits, labels = batch
    assert_close(seeded(kind(C), logits, labels.to(torch.uint8)), seeded(kind(C), logits, labels))


@every_loss
@pytest.mark.parametrize("chunk_size", [None, 1000])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_under_autocast(kind, chunk_size, dtype):
    logits = (60 * torch.randn(1, C, 100, 100)).clamp(-200, 200).to(dtype).requires_grad_()
    labels = torch.randint(C, (1, 100, 100))
    expected = seeded(kind(C, chunk_size=chunk_size), logits.detach().float(), labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = seeded(kind(C, chunk_size=chunk_size), logits, labels)
    assert value.dtype == torch.float32
    assert_close(value, expected, rtol=0, atol=0)
    gradient = gradient_of(value, logits)
    assert gradient.dtype == dtype
    assert gradient.isfinite().all()


@every_loss
@pytest.mark.parametrize("chunk_size", [None, 3])
@pytest.mark.parametrize("labels", [torch.full((2, 3, 4), 255), torch.zeros(0, 3, 4).long()])
def test_no_valid_pixels_give_zero_with_a_graph(kind, chunk_size, labels):
    logits = torch.randn(len(labels), C, 3, 4, requires_grad=True)
    loss = kind(C, chunk_size=chunk_size)
    value = loss(logits, labels)
    value.backward()
    assert value.item() == 0
    assert_close(logits.grad, torch.zeros_like(logits))
    assert all(not buffer.any() for buffer in loss.buffers())


@every_loss
def test_statistics_change_in_training_steps_only_and_are_saved(batch, kind):
    loss, copy = kind(C), kind(C)
    loss(*batch)
    saved = {name: buffer.clone() for name, buffer in loss.state_dict().items()}
    assert all(buffer.any() for buffer in saved.values())
    copy.load_state_dict(saved)
    loss.eval()(*batch)
    with torch.no_grad():
        loss.train()(*batch)
    assert_close(dict(loss.state_dict()), saved)
    assert_close(dict(copy.state_dict()), saved)
    if "class_counts" in saved:
        assert loss.half().class_counts.dtype == torch.int64
    assert all(buffer.is_meta for buffer in loss.to("meta").buffers())


@every_class
def test_hyper_parameters_out_of_range_are_reported(kind):
    kind(255)
    kind(1000, ignore_index=-1, chunk_size=1)
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        kind(0)
    with pytest.raises(ValueError, match="ignore_index is 255, which is one of the 256 classes"):
        kind(256)
    with pytest.raises(ValueError, match="chunk_size must be at least 1 or None, got 0"):
        kind(2, chunk_size=0)


@every_class
@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.randn(2, 4, 3, 3), torch.zeros(2, 3, 3), "labels must be integers, got torch.float"),
        (torch.randn(2, 5, 3, 3), torch.zeros(2, 3, 3).long(), r"\(N, 4, ...\).* got \(2, 5, 3, 3"),
        (torch.randn(4), torch.zeros(1).long(), r"\(N, 4, ...\), one per class, got \(4,\)"),
        (torch.randn(2, 4, 3, 3), torch.zeros(2, 3).long(), r"\(2, 3, 3\).* got \(2, 3\)"),
        (torch.randn(2, 4), torch.tensor([0, 4]), r"\[0, 3\] \(4 classes; 255 is ignored\), got 4"),
        (torch.randn(1, 4), torch.tensor([-1]), r"\[0, 3\] \(4 classes; 255 is ignored\), got -1"),
    ],
)
def test_an_invalid_batch_is_rejected_and_not_counted(kind, logits, labels, message):
    loss = kind(4)
    with pytest.raises(ValueError, match=message):
        loss(logits, labels)
    assert all(not buffer.any() for buffer in loss.buffers())


def test_print_shows_the_hyper_parameters():
    expected = "(num_classes=4, p=0.8, q=2.0, eps=0.01, sample_size=None, ignore_index=255, "
    expected += "chunk_size=65536, loss_weight=1.0, sync=True)"
    assert repr(SeesawCrossEntropyLoss(4)) == "SeesawCrossEntropyLoss" + expected
    assert "reduction='ref', momentum=0.0," in repr(RecallLoss(4, reduction="ref"))
    assert "counts_online=True, power=1.0," in repr(InverseFrequencyLoss(4))


# --- sums in chunks ---

CHUNKS = [1, 4, 7, 1000]


def cross_entropy(logits, labels):
    return F.cross_entropy(logits, labels, reduction="sum")


def random_batch(shape, dtype=torch.float64):
    logits = torch.randn(shape, dtype=dtype, requires_grad=True)
    return logits, torch.randint(shape[1], (shape[0], *shape[2:]))


@pytest.mark.parametrize("shape", [(7, 4), (2, 4, 5), (3, 4, 2, 3, 2)], ids=str)
@pytest.mark.parametrize("chunk_size", CHUNKS)
def test_chunked_value_and_gradient_equal_the_unchunked_ones(shape, chunk_size):
    logits, labels = random_batch(shape)
    total = sum_in_chunks(cross_entropy, logits, labels, chunk_size)
    assert_close(total, cross_entropy(logits, labels))
    (gradient,) = torch.autograd.grad(3 * total, logits)
    (expected,) = torch.autograd.grad(3 * cross_entropy(logits, labels), logits)
    assert_close(gradient, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_any_memory_format_is_accepted(memory_format):
    logits, labels = random_batch((2, 4, 3, 5))
    logits = logits.detach().contiguous(memory_format=memory_format).requires_grad_()
    total = sum_in_chunks(cross_entropy, logits, labels, 4)
    (gradient,) = torch.autograd.grad(total, logits)
    (expected,) = torch.autograd.grad(cross_entropy(logits, labels), logits)
    assert_close(gradient, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("chunk_size", CHUNKS[:-1])
def test_no_chunk_exceeds_the_requested_size(chunk_size):
    sizes = []

    def record(logits, labels):
        assert logits.shape[::2] == labels.shape
        sizes.append(labels.numel())
        return logits.sum()

    logits, labels = random_batch((2, 4, 3, 5))
    sum_in_chunks(record, logits, labels, chunk_size)
    assert sum(sizes) == 30
    assert max(sizes) == chunk_size


@pytest.mark.parametrize("chunk_size", [30, None])
def test_a_batch_that_fits_into_one_chunk_is_left_to_autograd(chunk_size):
    logits, labels = random_batch((2, 4, 3, 5))
    total = sum_in_chunks(cross_entropy, logits, labels, chunk_size)
    (gradient,) = torch.autograd.grad(total, logits, create_graph=True)
    torch.autograd.grad(gradient.square().sum(), logits)  # twice differentiable


def test_no_gradients_are_computed_without_grad_mode():
    logits, labels = random_batch((2, 4, 3, 5))
    with torch.no_grad():
        total = sum_in_chunks(cross_entropy, logits, labels, 4)
    assert not total.requires_grad
    detached = sum_in_chunks(cross_entropy, logits.detach(), labels, 4)
    assert not detached.requires_grad
    assert_close(detached, cross_entropy(logits, labels).detach())


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
    # Autograd saves only the tensors of one chunk at a time.
    assert all(nbytes <= logits.nbytes for nbytes in saved)
    assert log.largest <= logits.nbytes
