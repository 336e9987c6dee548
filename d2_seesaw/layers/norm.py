"""Normalization layers: batch norm over all ranks or with frozen statistics, layer norm.

A config names one of the functions, as in ``conv_norm=L(sync_batch_norm)()``. Detectron2's modules
accept its result instead of the name of a norm, and call it with the number of channels.

Shapes in this module:
    N: images or RoIs on this rank, may be 0
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
"""Builds a normalization layer from its number of channels."""

_ALL_BUT_CHANNELS = (0, 2, 3)


def sync_batch_norm(*, eps: float = 1e-5, momentum: float = 0.1) -> NormFactory:
    """Return a factory of :class:`SyncBatchNorm2d` with these arguments."""
    return partial(SyncBatchNorm2d, eps=eps, momentum=momentum)


def frozen_statistics_batch_norm(*, eps: float = 1e-5) -> NormFactory:
    """Return a factory of :class:`FrozenStatisticsBatchNorm2d` with this ``eps``."""
    return partial(FrozenStatisticsBatchNorm2d, eps=eps)


def layer_norm(*, eps: float = 1e-6) -> NormFactory:
    """Return a factory of ``nn.LayerNorm``, with the ``eps`` of most vision transformers."""
    return partial(nn.LayerNorm, eps=eps)


class SyncBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` over the batches of all ranks.

    With one process, and in evaluation, it is ``nn.BatchNorm2d``. With several ranks, output,
    gradients and running statistics equal those of ``nn.BatchNorm2d`` on the concatenated batches.
    The batches may differ in size: a rank may have fewer RoIs, none, or images of another size. All
    ranks must run the forward and the backward pass of each training step.

    The arithmetic is in float32, also under autocast. Only the input is kept for the backward
    pass, in its own dtype.

    Each existing implementation lacks one of these properties. ``nn.SyncBatchNorm`` does not
    support the CPU, and Detectron2's convolution does not support it with empty batches.
    Detectron2's ``naiveSyncBN_N`` weighs the ranks by N alone, which is wrong for images of several
    sizes, computes the variance in bfloat16 for a bfloat16 input, and keeps its biased estimate.

    Args:
        num_features: C.
        eps: added to the variance.
        momentum: weight of a batch in the running statistics.
    """

    def __init__(self, num_features: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)

    def forward(self, input: Tensor) -> Tensor:
        """Normalize ``(N, C, H, W)``.

        Raises:
            ValueError: there is only one value per channel, in training with one process.
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
        # Without values on any rank: momentum 0 and no division by 0.
        momentum = cast("float", self.momentum) * count.clamp(max=1)
        unbiased = variance * count / (count - 1).clamp(min=1)
        running_mean.lerp_(mean.to(running_mean.dtype), momentum.to(running_mean.dtype))
        running_var.lerp_(unbiased.to(running_var.dtype), momentum.to(running_var.dtype))


class FrozenStatisticsBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` with trained scale and shift, whose statistics never change.

    It always normalizes with the running statistics, those of the pretrained weights, as mmdet does
    with ``norm_eval=True``. Detectron2's ``FrozenBN`` also freezes scale and shift, and saves
    memory: the gradient of the scale needs the input of each layer.

    State dicts are interchangeable with those of ``FrozenBN``, and those of ``nn.BatchNorm2d``
    load. ``freeze_at`` of Detectron2's ResNet replaces the layers of frozen stages by ``FrozenBN``.

    Args:
        num_features: C.
        eps: added to the variance.
    """

    def __init__(self, num_features: int, *, eps: float = 1e-5) -> None:
        super().__init__(num_features, eps=eps)
        self.num_batches_tracked = None
        self.train()

    def train(self, mode: bool = True) -> "FrozenStatisticsBatchNorm2d":
        """Stay in evaluation mode, in which batch norm neither computes nor updates statistics."""
        return super().train(False)

    def _load_from_state_dict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, state_dict: Any, prefix: str, *args: Any
    ) -> None:
        state_dict.pop(f"{prefix}num_batches_tracked", None)
        # The method of nn.BatchNorm2d would add that entry to weights of other layers.
        nn.Module._load_from_state_dict(self, state_dict, prefix, *args)


def _number_of_ranks() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


class _BatchNormOfAllRanks(torch.autograd.Function):
    """Batch norm over all ranks that also returns mean, biased variance and number of values."""

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
        # Parameter gradients are those of this rank, because DDP reduces them. The gradient through
        # the statistics depends on all ranks, because the statistics do.
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
    """Return ``(C,)`` mean, ``(C,)`` biased variance and the scalar number of values per channel.

    Each rank computes its squares around its own mean before they are merged. A single sum over the
    ranks would give E[x^2] - E[x]^2, which suffers from cancellation.
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
