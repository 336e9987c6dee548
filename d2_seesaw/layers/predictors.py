"""Classifiers that are told their size later: a predictor asks its loss how many logits it needs.

A config names one of these functions; the predictor calls what it returns. So the number of logits
is written nowhere, and a loss with any number of them works with any classifier.
"""

from collections.abc import Callable
from functools import partial

from torch import nn

from d2_seesaw.layers.normed import NormedConv2d, NormedLinear

LayerFactory = Callable[[int, int], nn.Module]
"""Builds a layer from its number of inputs and its number of outputs."""


def _linear(std: float, in_features: int, out_features: int) -> nn.Linear:
    layer = nn.Linear(in_features, out_features)
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
    return layer


def linear_classifier(*, std: float = 0.01) -> LayerFactory:
    """A plain linear layer with weights from ``N(0, std)`` and bias 0, as in Fast R-CNN."""
    return partial(_linear, std)


def normed_linear_classifier(
    *, temperature: float = 20.0, power: float = 1.0, eps: float = 1e-6
) -> LayerFactory:
    """A :class:`NormedLinear` layer; the arguments are its own."""
    return partial(NormedLinear, temperature=temperature, power=power, eps=eps)


def _conv(std: float, in_channels: int, out_channels: int) -> nn.Conv2d:
    layer = nn.Conv2d(in_channels, out_channels, 1)
    nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def mask_predictor(*, std: float = 0.001) -> LayerFactory:
    """A plain 1 x 1 convolution with weights from ``N(0, std)`` and bias 0, as in Detectron2."""
    return partial(_conv, std)


def normed_mask_predictor(
    *, temperature: float = 20.0, power: float = 1.0, eps: float = 1e-6
) -> LayerFactory:
    """A 1 x 1 :class:`NormedConv2d` from feature channels to classes; the arguments are its own."""
    return partial(NormedConv2d, temperature=temperature, power=power, eps=eps)
