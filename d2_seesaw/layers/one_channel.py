"""One output channel of a 1 x 1 convolution per sample, without computing the others.

Shapes in this module:
    N: samples
    D: input channels
    K: output channels of the convolution
"""

import torch
from torch import Tensor, nn

from d2_seesaw.layers.normed import NormedConv2d


def is_pointwise(layer: nn.Module) -> bool:
    """Whether :func:`one_channel` can take a layer's place.

    That is a plain or normalised 1 x 1 convolution and nothing derived from them, whose forward
    pass could be anything.
    """
    return (
        isinstance(layer, nn.Conv2d)
        and type(layer).forward in (nn.Conv2d.forward, NormedConv2d.forward)
        and layer.kernel_size == layer.stride == layer.dilation == (1, 1)
        and layer.padding in ((0, 0), "valid", "same")
        and layer.groups == 1
    )


def one_channel(conv: nn.Conv2d, x: Tensor, channels: Tensor) -> Tensor:
    """Channel ``channels[n]`` of ``conv(x)[n]``, for every sample ``n``.

    Equal to the full convolution in value and gradient, at 1 / K of its work: of the weights, only
    the rows that are needed are read, and normalised where the layer normalises.

    Args:
        conv: a layer that :func:`is_pointwise`.
        x: ``(N, D, H, W)``.
        channels: ``(N,)`` indices in ``[0, K)``.

    Returns:
        ``(N, 1, H, W)``.
    """
    weight = conv.weight[channels]
    if isinstance(conv, NormedConv2d):
        weight = conv.normalised(weight)
    y = torch.bmm(weight.flatten(1)[:, None], x.flatten(2)).unflatten(2, x.shape[2:])
    if isinstance(conv, NormedConv2d):
        # Scaling the product rather than x spares two copies of x.
        y = y * conv.input_scale(x)
    if conv.bias is not None:
        y = y + conv.bias[channels, None, None, None]
    return y
