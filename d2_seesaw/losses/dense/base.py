"""Base class of the dense losses, and sums over millions of pixels in bounded memory.

Shapes: N images or samples, C classes, "..." is H x W for images and nothing for a classifier. A
"pixel" is one label: a pixel of an image, or a sample of a classifier.
"""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks

from d2_seesaw.losses._common import (
    check_dense_logits,
    check_labels,
    check_num_classes,
    count_labels,
    full_precision,
    sum_over_ranks,
)
from d2_seesaw.losses._first_pass import once

CHUNK_SIZE = 2**16
"""Default number of pixels per chunk: with 19 classes, a chunk fits into a CPU's cache."""

LossSum = Callable[[Tensor, Tensor], Tensor]
"""Maps ``(N, C, L)`` logits and ``(N, L)`` labels to the sum of their losses."""


class DenseLoss(nn.Module):
    """Base class of losses over C classes without background, called like cross-entropy.

    The loss is a sum over the pixels that are not ignored, divided by a normalizer. A subclass
    implements :meth:`weigh`. It overrides :meth:`count` if it needs more than the pixels per class,
    :meth:`update` if it has statistics, and :meth:`loss_sum` if it is not a class-weighted
    cross-entropy.

    Args:
        num_classes: C.
        ignore_index: label of pixels to ignore; not one of the classes.
        chunk_size: pixels to process at a time, which bounds the memory and does not change the
            result; None for all. Without effect in a compiled graph.
        loss_weight: factor on the loss.
        sync: in a training step, sum the counts over the ranks, so that counts, loss and (averaged)
            gradients equal those of one process on the whole batch. All ranks must then call the
            loss equally often.

    Raises:
        ValueError: a hyper-parameter is out of range.
    """

    options: ClassVar[tuple[str, ...]] = ()
    """Hyper-parameters of the subclass that ``print(model)`` shows."""

    def __init__(
        self,
        num_classes: int,
        *,
        ignore_index: int = 255,
        chunk_size: int | None = CHUNK_SIZE,
        loss_weight: float = 1.0,
        sync: bool = True,
    ) -> None:
        super().__init__()
        check_ignored(num_classes, ignore_index)
        if chunk_size is not None and chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1 or None, got {chunk_size}")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.chunk_size = chunk_size
        self.loss_weight = loss_weight
        self.sync = sync

    def extra_repr(self) -> str:
        """Return the hyper-parameters for ``print(model)``."""
        shared = ("ignore_index", "chunk_size", "loss_weight", "sync")
        names = ("num_classes", *self.options, *shared)
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Count the batch, update the statistics in a training step, and compute the loss.

        Args:
            logits: ``(N, C)`` or ``(N, C, ...)`` of any floating dtype.
            labels: ``(N,)`` or ``(N, ...)`` integers in ``[0, C)`` or ``ignore_index``.

        Returns:
            A scalar in float32, or float64 for float64 logits. A differentiable zero if
            every pixel is ignored.

        Raises:
            ValueError: shapes or labels are invalid.
        """
        labels, is_valid = check_batch(logits, labels, self.num_classes, self.ignore_index)

        def weights_and_normalizer(is_training_step: bool) -> tuple[Tensor, Tensor]:
            counts = self.count(logits.detach(), labels, is_valid)
            ranks = 1
            if is_training_step:
                ranks = sum_over_ranks(counts) if self.sync else 1
                self.update(counts)
            weights, normalizer = self.weigh(counts)
            # The mean per rank, because DDP averages the gradients.
            return weights, torch.where(normalizer > 0, normalizer, 1).double() / ranks

        weights, normalizer = once(self, weights_and_normalizer)
        some_logits, some_labels, fraction = self.select(logits, labels, is_valid)

        def loss_sum(logits: Tensor, labels: Tensor) -> Tensor:
            return self.loss_sum(full_precision(logits), labels, weights)

        with torch.autocast(logits.device.type, enabled=False):
            total = sum_in_chunks(loss_sum, some_logits, some_labels, self.chunk_size)
            return self.loss_weight * total / (fraction * normalizer).to(total.dtype)

    def count(self, logits: Tensor, labels: Tensor, is_valid: Tensor) -> Tensor:
        """Return the int64 counts to sum over the ranks; by default the ``(C,)`` pixels per class.

        Args:
            logits: ``(N, C, ...)``, detached.
            labels: ``(N, ...)`` int64.
            is_valid: ``(N, ...)`` booleans, false for ignored pixels.
        """
        return count_labels(labels, is_valid, self.num_classes)

    def update(self, counts: Tensor) -> None:
        """Update the statistics in a training step; by default there are none."""

    def weigh(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(C,)`` class weights, and the normalizer of the whole batch as a scalar.

        Args:
            counts: the result of :meth:`count`, summed over the ranks.
        """
        raise NotImplementedError

    def select(
        self, logits: Tensor, labels: Tensor, is_valid: Tensor
    ) -> tuple[Tensor, Tensor, float | Tensor]:
        """Return the logits and labels to sum over, and their fraction of the valid pixels."""
        return logits, labels, 1.0

    def loss_sum(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """Sum ``weights[label]`` times cross-entropy over the pixels that are not ignored.

        Args:
            logits: ``(N, C, ...)`` in float32 or float64.
            labels: ``(N, ...)`` int64.
            weights: ``(C,)`` class weights.
        """
        weights = weights.to(logits.dtype)
        return F.cross_entropy(
            logits, labels, weight=weights, ignore_index=self.ignore_index, reduction="sum"
        )


def check_batch(
    logits: Tensor, labels: Tensor, num_classes: int, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Check shapes and labels.

    Returns:
        The labels as int64, and booleans of their shape, false for ignored ones.

    Raises:
        ValueError: shapes or labels are invalid.
    """
    check_dense_logits(logits, labels, num_classes)
    is_valid = labels != ignore_index
    known = torch.where(is_valid, labels, torch.zeros_like(labels))
    meaning = f"{num_classes} classes; {ignore_index} is ignored"
    known = check_labels(known, 0, num_classes - 1, meaning)
    if torch.compiler.is_compiling():
        return torch.where(is_valid, known, ignore_index), is_valid
    return labels.long(), is_valid


def check_ignored(num_classes: int, ignore_index: int) -> None:
    """Check that the ignored label is not a class.

    Raises:
        ValueError: it is one, or there are no classes.
    """
    check_num_classes(num_classes)
    if 0 <= ignore_index < num_classes:
        raise ValueError(
            f"ignore_index is {ignore_index}, which is one of the {num_classes} classes: its "
            "pixels would never be learned. Use a label outside the classes, such as -1"
        )


def sum_in_chunks(
    loss_sum: LossSum, logits: Tensor, labels: Tensor, chunk_size: int | None
) -> Tensor:
    """Compute ``loss_sum(logits, labels)`` from at most ``chunk_size`` pixels at a time.

    The gradient of each chunk is computed along with its loss. Only one tensor like the logits is
    kept for the backward pass, whatever ``loss_sum`` itself would keep. A batch that fits into one
    chunk is left to autograd, and every batch to the compiler in a compiled graph.

    Args:
        loss_sum: a sum over independent pixels.
        logits: ``(N, C)`` or ``(N, C, ...)``.
        labels: ``(N,)`` or ``(N, ...)``.
        chunk_size: pixels per chunk, at least 1; None for all.

    Returns:
        The sum, a scalar in float32, or float64 for float64 logits. A sum of several chunks can be
        differentiated once.
    """
    if torch.compiler.is_compiling() or chunk_size is None or labels.numel() <= chunk_size:
        return loss_sum(logits, labels)
    return _SumInChunks.apply(logits, labels, loss_sum, chunk_size)


class _SumInChunks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, loss_sum: LossSum, chunk_size: int
    ) -> Tensor:
        needs_gradient = ctx.needs_input_grad[0]
        gradient = torch.empty_like(logits) if needs_gradient else None
        # In float64: the rounding errors of thousands of chunks would add up in float32.
        total = logits.new_zeros((), dtype=torch.float64)
        dtype = full_precision(logits[:0]).dtype
        chunks = zip(
            _chunks(logits, chunk_size),
            _chunks(labels.unsqueeze(1), chunk_size),
            _chunks(logits if gradient is None else gradient, chunk_size),
            strict=True,
        )
        for some_logits, some_labels, some_gradient in chunks:
            # The hooks of a checkpointed region would recompute the region for each chunk.
            with torch.enable_grad(), saved_tensors_hooks(_same, _same):
                leaf = some_logits.detach().requires_grad_(needs_gradient)
                value = loss_sum(leaf, some_labels.squeeze(1))
                if needs_gradient:
                    some_gradient.copy_(torch.autograd.grad(value, leaf)[0])
            total += value.detach()
        ctx.save_for_backward(gradient)
        return total.to(dtype)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (None if gradient is None else gradient * grad_outputs[0]), None, None, None


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _chunks(values: Tensor, chunk_size: int) -> Iterator[Tensor]:
    """Yield ``(1, C, L)`` views of ``(N, C, ...)`` values, L at most ``chunk_size``.

    The ``(N, C)`` samples of a classifier are treated as the pixels of a single image.
    """
    images = values.t().unsqueeze(0) if values.dim() == 2 else values
    for image in images.split(1):
        yield from image.flatten(2).split(chunk_size, dim=2)
