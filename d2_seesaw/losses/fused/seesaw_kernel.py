"""Triton kernel of Seesaw Loss: losses and gradient in one launch. See ``fused/seesaw.py``.

Each program computes one sample. Its logits are read once if they fit into one block, which is
``LARGEST_BLOCK`` classes, and three times otherwise. Rows of more classes are processed in blocks,
with running maxima and sums.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

LARGEST_BLOCK = 16384


def losses_and_gradient(
    logits: Tensor,
    labels: Tensor,
    class_counts: Tensor,
    p: float,
    q: float,
    eps: float,
    *,
    with_gradient: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Compute the Seesaw Loss of each sample, and its gradient.

    Args:
        logits: ``(P, C)`` in float32, bfloat16 or float16.
        labels: ``(P,)`` int64 class indices; negative ones are ignored.
        class_counts: ``(C,)`` counts; zeros count as ones.
        p: strength of the mitigation factor.
        q: strength of the compensation factor.
        eps: lower bound of the true class's probability in the compensation factor.
        with_gradient: compute the gradient, too.

    Returns:
        ``(P,)`` losses and the ``(P, C)`` gradient of their sum, or None, both in float32.
    """
    rows, classes = logits.shape
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    losses = torch.empty(rows, dtype=torch.float32, device=logits.device)
    shape = (rows, classes) if with_gradient else (0,)
    gradient = torch.empty(shape, dtype=torch.float32, device=logits.device)
    if rows == 0:
        return losses, gradient if with_gradient else None
    block = min(triton.next_power_of_2(classes), LARGEST_BLOCK)
    with torch.cuda.device_of(logits):  # Triton launches on the current device
        _seesaw[(rows,)](
            logits,
            labels.contiguous(),
            class_counts.contiguous(),
            losses,
            gradient,
            logits.stride(0),
            classes,
            float(p),
            float(q),
            math.log(eps),
            BLOCK=block,
            IN_ONE_BLOCK=classes <= block,
            WITH_GRADIENT=with_gradient,
            num_warps=max(1, min(32, block // 512)),  # pyright: ignore[reportCallIssue]
        )
    return losses, gradient if with_gradient else None


@triton.jit
def _shifted(z, columns, label, counts, log_normalizer, floor, p, q, C):
    """Add the log weights to a block of logits; missing columns stay at minus infinity."""
    count = tl.load(counts + columns, mask=columns < C, other=1).to(tl.float32)
    true_count = tl.load(counts + label).to(tl.float32)
    ratio = tl.maximum(count, 1.0) / tl.maximum(true_count, 1.0)
    mitigation = p * tl.log(tl.minimum(ratio, 1.0))
    excess = (z - log_normalizer) - floor
    shifted = z + mitigation + tl.where(excess > 0, q * excess, 0.0)
    return tl.where(columns == label, z, shifted)


@triton.jit
def _seesaw(
    logits,
    labels,
    counts,
    losses,
    gradient,
    row_stride,
    C,
    p,
    q,
    log_eps,
    BLOCK: tl.constexpr,
    IN_ONE_BLOCK: tl.constexpr,
    WITH_GRADIENT: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    own = logits + row * row_stride
    result = gradient + row * C
    label = tl.load(labels + row)
    if label < 0:
        tl.store(losses + row, 0.0)
        if WITH_GRADIENT:
            offsets = tl.arange(0, BLOCK)
            for start in range(0, C, BLOCK):
                columns = start + offsets
                tl.store(result + columns, 0.0, mask=columns < C)
    elif IN_ONE_BLOCK:
        _in_one_block(
            own, label, counts, losses + row, result, C, p, q, log_eps, BLOCK, WITH_GRADIENT
        )
    else:
        _in_blocks(own, label, counts, losses + row, result, C, p, q, log_eps, BLOCK, WITH_GRADIENT)


@triton.jit
def _in_one_block(
    own,
    label,
    counts,
    loss,
    result,
    C,
    p,
    q,
    log_eps,
    BLOCK: tl.constexpr,
    WITH_GRADIENT: tl.constexpr,
):
    """Compute one row that is read once."""
    columns = tl.arange(0, BLOCK)
    true_logit = tl.load(own + label).to(tl.float32)
    z = tl.load(own + columns, mask=columns < C, other=-float("inf")).to(tl.float32)
    highest = tl.max(z, axis=0)
    log_normalizer = highest + tl.log(tl.sum(tl.exp(z - highest), axis=0))
    floor = tl.maximum(true_logit - log_normalizer, log_eps)
    s = _shifted(z, columns, label, counts, log_normalizer, floor, p, q, C)
    highest = tl.max(s, axis=0)
    exponentials = tl.exp(s - highest)
    total = tl.sum(exponentials, axis=0)
    tl.store(loss, highest - true_logit + tl.log(total))
    if WITH_GRADIENT:
        found = exponentials / total - tl.where(columns == label, 1.0, 0.0)
        tl.store(result + columns, found, mask=columns < C)


@triton.jit
def _in_blocks(
    own,
    label,
    counts,
    loss,
    result,
    C,
    p,
    q,
    log_eps,
    BLOCK: tl.constexpr,
    WITH_GRADIENT: tl.constexpr,
):
    """Compute one row in blocks: the normalizer of z, that of s, and the gradient."""
    low = -float("inf")
    offsets = tl.arange(0, BLOCK)
    true_logit = tl.load(own + label).to(tl.float32)
    # The true logit is part of both sums, so the running maximum is never minus infinity.
    highest = true_logit
    total = 0.0
    for start in range(0, C, BLOCK):
        columns = start + offsets
        z = tl.load(own + columns, mask=columns < C, other=low).to(tl.float32)
        higher = tl.maximum(highest, tl.max(z, axis=0))
        total = total * tl.exp(highest - higher) + tl.sum(tl.exp(z - higher), axis=0)
        highest = higher
    log_normalizer = highest + tl.log(total)
    floor = tl.maximum(true_logit - log_normalizer, log_eps)
    highest = true_logit
    total = 0.0
    for start in range(0, C, BLOCK):
        columns = start + offsets
        z = tl.load(own + columns, mask=columns < C, other=low).to(tl.float32)
        s = _shifted(z, columns, label, counts, log_normalizer, floor, p, q, C)
        higher = tl.maximum(highest, tl.max(s, axis=0))
        total = total * tl.exp(highest - higher) + tl.sum(tl.exp(s - higher), axis=0)
        highest = higher
    tl.store(loss, highest - true_logit + tl.log(total))
    if WITH_GRADIENT:
        for start in range(0, C, BLOCK):
            columns = start + offsets
            z = tl.load(own + columns, mask=columns < C, other=low).to(tl.float32)
            s = _shifted(z, columns, label, counts, log_normalizer, floor, p, q, C)
            found = tl.exp(s - highest) / total - tl.where(columns == label, 1.0, 0.0)
            tl.store(result + columns, found, mask=columns < C)
