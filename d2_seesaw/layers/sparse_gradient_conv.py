"""Convolution whose backward pass skips the positions where the gradient is zero.

Shapes in this module:
    N: images
    D: input channels
    O: output channels
    A: positions with a gradient
    K: side of the kernel
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

MAX_SHARE = 0.2
"""Largest share of positions with a gradient for which skipping the others pays."""


def conv2d_sparse_gradient(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply ``F.conv2d`` with stride 1 and a padding that keeps the size, fast to train on a CPU.

    The heads of an RPN get a gradient at the few anchors that were sampled. With all gradients
    there, values and gradients are those of ``F.conv2d``, up to rounding errors.

    Args:
        x: ``(N, D, H, W)``.
        weight: ``(O, D, K, K)`` with an odd K.
        bias: ``(O,)``.

    Returns:
        ``(N, O, H, W)``.
    """
    return _Conv.apply(x, weight, bias)  # type: ignore[no-any-return]


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=weight.shape[2] // 2)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        rows = gradient.permute(0, 2, 3, 1).flatten(0, 2)
        positions = (rows != 0).any(dim=1).nonzero().squeeze(1)  # NaN is not 0 either
        if len(positions) <= MAX_SHARE * len(rows):
            return _sparse(x, weight, rows[positions], positions, ctx.needs_input_grad[0])
        padding = weight.shape[2] // 2
        return torch.ops.aten.convolution_backward(
            *(gradient, x, weight, [len(weight)], [1, 1], [padding] * 2, [1, 1], False, [0, 0], 1),
            list(ctx.needs_input_grad),
        )


def _sparse(
    x: Tensor, weight: Tensor, rows: Tensor, positions: Tensor, needs_input: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Return the gradients of input, weight and bias.

    Args:
        x: ``(N, D, H, W)`` input.
        weight: ``(O, D, K, K)``.
        rows: ``(A, O)`` gradients of the output.
        positions: ``(A,)`` of them in ``(N, H, W)``.
        needs_input: whether the input needs a gradient.
    """
    _, D, K, _ = weight.shape
    height, width = x.shape[2:]
    pad = K // 2
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, pad, pad, pad, pad))
    image_row = positions.div(width, rounding_mode="floor")
    image = image_row.div(height, rounding_mode="floor")
    wide = width + 2 * pad
    corners = (image_row + image * 2 * pad) * wide + positions % width
    steps = torch.arange(K)
    offsets = (steps[:, None] * wide + steps).flatten()
    patches = padded.flatten(0, 2)[corners[:, None] + offsets].flatten(1)
    of_weight = (rows.T @ patches).view(-1, K, K, D).permute(0, 3, 1, 2)
    of_input = None
    if needs_input:
        products = (rows @ weight.permute(0, 2, 3, 1).flatten(1)).view(-1, K * K, D)
        sums = torch.zeros_like(padded).flatten(0, 2)
        for offset, product in zip(offsets.tolist(), products.unbind(1), strict=True):
            # Positions are different, so no row is added to twice.
            at = corners + offset
            sums[at] = sums[at] + product
        inner = sums.view(padded.shape)[:, pad : pad + height, pad : pad + width]
        of_input = inner.permute(0, 3, 1, 2)
    return of_input, of_weight, rows.sum(dim=0)
