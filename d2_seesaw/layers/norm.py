"""Normalisation that heads and backbones are given: batch norm over all ranks, layer norm.

A config names one of the functions. Detectron2's modules take what it returns wherever they take
the name of a norm, and call it with the number of channels: ``conv_norm=L(sync_batch_norm)()``.

Shapes in this module:
    N: images or RoIs on this rank, maybe none
    C: channels
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

NormFactory = Callable[[int], nn.Module]
"""Builds a normalisation from its number of channels."""

_ALL_BUT_CHANNELS = (0, 2, 3)


def sync_batch_norm(*, eps: float = 1e-5, momentum: float = 0.1) -> NormFactory:
    """A :class:`SyncBatchNorm2d`; the arguments are its own."""
    return partial(SyncBatchNorm2d, eps=eps, momentum=momentum)


def layer_norm(*, eps: float = 1e-6) -> NormFactory:
    """An ``nn.LayerNorm``, with the ``eps`` of most vision transformers rather than torch's."""
    return partial(nn.LayerNorm, eps=eps)


class SyncBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` whose batch is that of all ranks together.

    On one process, and in evaluation, it is ``nn.BatchNorm2d``. On several it does what that does
    with the batches of all ranks concatenated, for output, gradients and running statistics,
    whatever their sizes: a rank may have fewer RoIs, or none, or images of another size. All ranks
    have to take part in each training step, forwards and backwards.

    The arithmetic is that of float32 whatever autocast says. For the backward pass only the input
    is kept, in the type it came in.

    Others lack one of these. ``nn.SyncBatchNorm`` refuses tensors on the CPU, and Detectron2's
    convolution refuses it for empty batches. Detectron2's ``naiveSyncBN_N`` weighs the ranks by N
    alone, which is right for RoIs but not for images of several sizes, computes the variance in
    bfloat16 where that is the type of the input, and keeps its biased estimate.

    Args:
        num_features: C.
        eps: added to the variance.
        momentum: weight of a batch in the running statistics.
    """

    def __init__(self, num_features: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``(N, C, H, W)``.

        Raises:
            ValueError: in training on one process, one value per channel.
        """
        if not self.training or _number_of_ranks() == 1:
            return super().forward(input)
        self._check_input_dim(input)
        result = _BatchNormOfAllRanks.apply(input, self.weight, self.bias, self.eps)
        output, mean, variance, count = cast("tuple[Tensor, Tensor, Tensor, Tensor]", result)
        self._update_running_statistics(mean, variance, count)
        return output

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        running_mean = cast("Tensor", self.running_mean)
        running_var = cast("Tensor", self.running_var)
        cast("Tensor", self.num_batches_tracked).add_(1)
        # Without values on any rank there is nothing to learn: momentum 0, and no division by 0.
        momentum = cast("float", self.momentum) * count.clamp(max=1)
        unbiased = variance * count / (count - 1).clamp(min=1)
        running_mean.lerp_(mean.to(running_mean.dtype), momentum.to(running_mean.dtype))
        running_var.lerp_(unbiased.to(running_var.dtype), momentum.to(running_var.dtype))


def _number_of_ranks() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


class _BatchNormOfAllRanks(torch.autograd.Function):
    """Batch norm with statistics over all ranks: also mean, biased variance and count of values."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Any:
        x = _wide(input)
        mean, variance, count = _statistics_of_all_ranks(x)
        inverse_std = (variance + eps).rsqrt()
        scale = _wide(weight) * inverse_std
        output = (x - _map(mean)) * _map(scale) + _map(_wide(bias))
        ctx.save_for_backward(input, weight, mean, inverse_std, count)
        ctx.mark_non_differentiable(mean, variance, count)
        return output.to(input.dtype), mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:  # type: ignore[override]
        input, weight, mean, inverse_std, count = ctx.saved_tensors
        grad = _wide(grads[0])
        normalized = (_wide(input) - _map(mean)) * _map(inverse_std)
        grad_bias = grad.sum(_ALL_BUT_CHANNELS)
        grad_weight = (grad * normalized).sum(_ALL_BUT_CHANNELS)
        # The parameters' gradients stay those of this rank: DDP sums them as it does all others.
        # The statistics depend on the inputs of all ranks, so the gradient through them on all.
        means = torch.stack([grad_bias, grad_weight])
        dist.all_reduce(means)
        through_mean, through_variance = means / count.clamp(min=1)
        grad_input = grad - _map(through_mean) - normalized * _map(through_variance)
        grad_input = grad_input * _map(_wide(weight) * inverse_std)
        return (
            grad_input.to(input.dtype),
            grad_weight.to(weight.dtype),
            grad_bias.to(weight.dtype),
            None,
        )


def _map(channels: Tensor) -> Tensor:
    return channels[:, None, None]


def _statistics_of_all_ranks(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``(C,)`` mean, ``(C,)`` biased variance and the number of values per channel, a scalar.

    Each rank's own are computed around its own mean and then merged: the difference of the mean of
    squares and the square of the mean, which one sum over the ranks would give, cancels.
    """
    own_count = x.new_tensor(float(x.numel() // x.shape[1]))
    own_mean = x.sum(_ALL_BUT_CHANNELS) / own_count.clamp(min=1)
    own_squares = (x - _map(own_mean)).square().sum(_ALL_BUT_CHANNELS)
    own = torch.cat([own_mean, own_squares, own_count[None]])
    gathered = [torch.empty_like(own) for _ in range(_number_of_ranks())]
    dist.all_gather(gathered, own)
    channels = x.shape[1]
    means, squares, counts = torch.stack(gathered).split([channels, channels, 1], dim=1)
    count = counts.sum()
    mean = (counts * means).sum(0) / count.clamp(min=1)
    squares = squares + counts * (means - mean).square()
    return mean, squares.sum(0) / count.clamp(min=1), count
