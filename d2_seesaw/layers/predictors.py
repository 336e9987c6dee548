"""Factories of classifiers, and a convolution that computes one output channel per sample.

A config names a factory, and the predictor calls it with the number of logits that the loss needs.
Any loss thus works with any classifier.

Shapes in this module:
    N: samples
    D: input channels
    K: output channels of the convolution
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from d2_seesaw.layers.normed import NormedConv2d, NormedLinear, TauNormalizedLinear, in_float16

LayerFactory = Callable[[int, int], nn.Module]
"""Builds a layer from its number of inputs and its number of outputs."""


def _linear(std: float, prior: float, in_features: int, out_features: int) -> nn.Linear:
    layer = nn.Linear(in_features, out_features)
    nn.init.normal_(layer.weight, std=std)
    nn.init.constant_(layer.bias, math.log(prior / (1 - prior)))
    return layer


def linear_classifier(*, std: float = 0.01, prior_probability: float = 0.5) -> LayerFactory:
    """Return a factory of ``nn.Linear`` with weights from ``N(0, std)``, as in Fast R-CNN.

    Args:
        std: standard deviation of the weights.
        prior_probability: sigmoid of the initial bias. A low one, for losses with a sigmoid per
            class, keeps the negatives of all classes from dominating the first steps (RetinaNet).
            The default is a bias of 0.

    Raises:
        ValueError: the probability is not between 0 and 1.
    """
    _check_probability(prior_probability)
    return partial(_linear, std, prior_probability)


def _check_probability(probability: float) -> None:
    if not 0 < probability < 1:
        raise ValueError(f"prior_probability must be between 0 and 1, got {probability}")


def _normed_linear(
    options: dict[str, Any], prior: float, in_features: int, out_features: int
) -> NormedLinear:
    layer = NormedLinear(in_features, out_features, **options)
    nn.init.constant_(layer.bias, math.log(prior / (1 - prior)))
    return layer


def normed_linear_classifier(
    *,
    temperature: float = 20.0,
    power: float = 1.0,
    eps: float = 1e-6,
    prior_probability: float = 0.5,
) -> LayerFactory:
    """Return a factory of :class:`NormedLinear` with these arguments.

    ``prior_probability`` is the sigmoid of the initial bias, as in :func:`linear_classifier`.

    Raises:
        ValueError: the probability is not between 0 and 1.
    """
    _check_probability(prior_probability)
    options = {"temperature": temperature, "power": power, "eps": eps}
    return partial(_normed_linear, options, prior_probability)


def tau_normalized_classifier(*, tau: float = 1.0) -> LayerFactory:
    """Return a factory of :class:`TauNormalizedLinear` with this exponent."""
    return partial(TauNormalizedLinear, tau=tau)


def _conv(std: float | None, in_channels: int, out_channels: int) -> nn.Conv2d:
    layer = nn.Conv2d(in_channels, out_channels, 1)
    if std is None:
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    else:
        nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def mask_predictor(*, std: float = 0.001) -> LayerFactory:
    """Return a factory of 1 x 1 convolutions with weights from ``N(0, std)``, as in Detectron2."""
    return partial(_conv, std)


def kaiming_mask_predictor() -> LayerFactory:
    """Return a factory of 1 x 1 convolutions with weights from ``N(0, sqrt(2 / K))``, as in mmdet.

    The initialization is that of He et al., arXiv 1502.01852, for the number of outputs.
    """
    return partial(_conv, None)


def normed_mask_predictor(
    *, temperature: float = 20.0, power: float = 1.0, eps: float = 1e-6
) -> LayerFactory:
    """Return a factory of 1 x 1 :class:`NormedConv2d` with these arguments."""
    return partial(NormedConv2d, temperature=temperature, power=power, eps=eps)


def is_pointwise(layer: nn.Module) -> bool:
    """Return whether :func:`conv1x1_channel` can replace a layer.

    It can for a plain or normalized 1 x 1 convolution whose forward pass is not overridden.
    """
    return (
        isinstance(layer, nn.Conv2d)
        and type(layer).forward in (nn.Conv2d.forward, NormedConv2d.forward)
        and layer.kernel_size == layer.stride == layer.dilation == (1, 1)
        and layer.padding in ((0, 0), "valid", "same")
        and layer.groups == 1
    )


def conv1x1_channel(conv: nn.Conv2d, x: Tensor, channels: Tensor) -> Tensor:
    """Compute channel ``channels[n]`` of ``conv(x)[n]`` for every sample ``n``.

    Value and gradient equal those of the full convolution, at 1 / K of its cost: only the weight
    rows that are needed are read, and normalized if the layer normalizes.

    Args:
        conv: a layer that :func:`is_pointwise`.
        x: ``(N, D, H, W)``.
        channels: ``(N,)`` indices in ``[0, K)``.

    Returns:
        ``(N, 1, H, W)``.
    """
    weight = conv.weight[channels]
    scale = None
    if isinstance(conv, NormedConv2d):
        weight = conv.normalized(weight)
        if in_float16(x):
            x = conv.temperature * conv.normalized_input(x)
        else:  # scaling the product avoids two copies of x
            scale = conv.input_scale(x)
    D, H, W = x.shape[1:]
    # The number of samples is inferred: ONNX reads a size that is 0 as "unchanged".
    if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        rows = x.permute(0, 2, 3, 1).reshape(-1, H * W, D)  # a view; the gradient has its format
        y = torch.bmm(rows, weight[:, :, 0]).reshape(-1, 1, H, W)
    else:
        y = torch.bmm(weight[:, None, :, 0, 0], x.reshape(-1, D, H * W)).reshape(-1, 1, H, W)
    if scale is not None:
        y = y * scale
    if conv.bias is not None:
        y = y + conv.bias[channels, None, None, None]
    return y
