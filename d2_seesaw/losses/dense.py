"""Sums of losses over millions of pixels in bounded memory: piece by piece, gradient included."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from d2_seesaw.losses._common import full_precision

CHUNK_SIZE = 2**16
"""Pixels of a piece by default: 19 classes of them fit a CPU's cache."""

LossSum = Callable[[Tensor, Tensor], Tensor]
"""Maps ``(N, C, L)`` logits and ``(N, L)`` labels to the sum of their losses."""


def sum_in_chunks(
    loss_sum: LossSum, logits: Tensor, labels: Tensor, chunk_size: int | None
) -> Tensor:
    """``loss_sum(logits, labels)``, computed from at most ``chunk_size`` pixels at a time.

    Each piece's gradient is computed along with its loss, so that what lives until the backward
    pass is one tensor like the logits, whatever ``loss_sum`` itself would keep. What fits into one
    piece is left to autograd.

    Args:
        loss_sum: a sum over pixels that do not depend on each other.
        logits: ``(N, C)`` or ``(N, C, ...)``.
        labels: ``(N,)`` or ``(N, ...)``.
        chunk_size: pixels of one piece, at least 1; None for all.

    Returns:
        The sum, a scalar in float32, or float64 for float64 logits. In pieces, it can be
        differentiated once.
    """
    if chunk_size is None or labels.numel() <= chunk_size:
        return loss_sum(logits, labels)
    return _SumInChunks.apply(logits, labels, loss_sum, chunk_size)


class _SumInChunks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, loss_sum: LossSum, chunk_size: int
    ) -> Tensor:
        needs_gradient = ctx.needs_input_grad[0]
        gradient = torch.empty_like(logits) if needs_gradient else None
        # In float64: some thousand pieces would otherwise add up their rounding errors.
        total = logits.new_zeros((), dtype=torch.float64)
        dtype = full_precision(logits[:0]).dtype
        pieces = zip(
            _pieces(logits, chunk_size),
            _pieces(labels.unsqueeze(1), chunk_size),
            _pieces(logits if gradient is None else gradient, chunk_size),
            strict=True,
        )
        for some_logits, some_labels, some_gradient in pieces:
            with torch.enable_grad():
                leaf = some_logits.detach().requires_grad_(needs_gradient)
                value = loss_sum(leaf, some_labels.squeeze(1))
            total += value.detach()
            if needs_gradient:
                some_gradient.copy_(torch.autograd.grad(value, leaf)[0])
        ctx.save_for_backward(gradient)
        return total.to(dtype)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (None if gradient is None else gradient * grad_outputs[0]), None, None, None


def _pieces(values: Tensor, chunk_size: int) -> Iterator[Tensor]:
    """``(1, C, L)`` views of ``(N, C, ...)`` values, L at most ``chunk_size``.

    The samples of a classifier, ``(N, C)``, count as the pixels of a single image.
    """
    images = values.t().unsqueeze(0) if values.dim() == 2 else values
    for image in images.split(1):
        yield from image.flatten(2).split(chunk_size, dim=2)


def check_chunk_size(chunk_size: int | None) -> None:
    """Refuse chunks of less than a pixel.

    Raises:
        ValueError: naming the size that was given.
    """
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1 or None, got {chunk_size}")


def class_weighted_sum(
    logits: Tensor,
    labels: Tensor,
    weights: Tensor,
    *,
    ignore_index: int,
    chunk_size: int | None,
) -> Tensor:
    """Sum of ``weights[label]`` times cross-entropy over the pixels that are not ignored.

    Args:
        logits: ``(N, C)`` or ``(N, C, ...)`` of any floating dtype.
        labels: ``(N,)`` or ``(N, ...)`` int64.
        weights: ``(C,)`` of the classes.
        ignore_index: the label of pixels that take no part.
        chunk_size: pixels to look at at a time; None for all.

    Returns:
        A scalar in float32, whatever autocast says, or float64 for float64 logits.
    """

    def loss_sum(logits: Tensor, labels: Tensor) -> Tensor:
        logits = full_precision(logits)
        weight = weights.to(logits.dtype)
        return F.cross_entropy(
            logits, labels, weight=weight, ignore_index=ignore_index, reduction="sum"
        )

    with torch.autocast(logits.device.type, enabled=False):
        return sum_in_chunks(loss_sum, logits, labels, chunk_size)
