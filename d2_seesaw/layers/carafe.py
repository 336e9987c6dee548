r"""Upsampling and downsampling by content-aware reassembly of features, CARAFE and CARAFE++.

The papers are https://arxiv.org/abs/1905.02188 and https://arxiv.org/abs/2012.04733. Each output
pixel is a weighted mean of the k x k input pixels around its source position. A small network
predicts the weights from the input. With tap ``(i, j)`` and ``r = k // 2``,

.. math::
    y_{c, v, u} = \sum_{i, j} w_{g(c), i k + j, v, u} \; x_{c, p(v) + i - r, p(u) + j - r}

where ``p(v)`` is ``v // scale`` for upsampling and ``v * scale`` for downsampling. Outside the
map, ``x`` is 0 and the weights are not renormalized.

The sum runs tap by tap over shifted views of the input. The backward pass thus keeps the input and
the weights, not the k * k copies of the input that im2col makes.

Shapes in this module:
    N: samples, may be 0
    C: channels, in G groups; the channels of a group share their weights
    k: window width
    s: scale
"""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def carafe(features: Tensor, kernels: Tensor, *, scale: int = 2, groups: int = 1) -> Tensor:
    """Upsample with the given weights (CARAFE paper, equation 4).

    Args:
        features: ``(N, C, H, W)``.
        kernels: ``(N, G * k * k, s * H, s * W)`` weights, the taps of a group in row-major order.
        scale: s.
        groups: G.

    Returns:
        ``(N, C, s * H, s * W)``.

    Raises:
        ValueError: the shapes do not match.
    """
    N, C, H, W = features.shape
    windows = _windows(features, kernels, (scale * H, scale * W), groups)
    taps = kernels.reshape(N, groups, len(windows), 1, H, scale, W, scale).unbind(2)
    total = _weighted_sum((x[:, :, :, :, None, :, None] for x in windows), taps)
    return total.reshape(N, C, scale * H, scale * W)


def carafe_down(features: Tensor, kernels: Tensor, *, scale: int = 2, groups: int = 1) -> Tensor:
    """Downsample with the given weights (CARAFE++ paper, section 3).

    The window of output pixel ``(v, u)`` is centered at ``(s * v, s * u)``.

    Args:
        features: ``(N, C, H, W)``.
        kernels: ``(N, G * k * k, ceil(H / s), ceil(W / s))`` weights, the taps of a group in
            row-major order.
        scale: s.
        groups: G.

    Returns:
        ``(N, C, ceil(H / s), ceil(W / s))``.

    Raises:
        ValueError: the shapes do not match.
    """
    N, C, H, W = features.shape
    size = (-(-H // scale), -(-W // scale))
    windows = _windows(features, kernels, size, groups)
    taps = kernels.reshape(N, groups, len(windows), 1, *size).unbind(2)
    total = _weighted_sum((x[..., ::scale, ::scale] for x in windows), taps)
    return total.reshape(N, C, *size)


def _weighted_sum(windows: Iterable[Tensor], taps: Iterable[Tensor]) -> Tensor:
    (x, weight), *rest = zip(windows, taps, strict=True)
    total = x * weight
    for x, weight in rest:
        total = torch.addcmul(total, x, weight)
    return total


def _windows(features: Tensor, kernels: Tensor, size: tuple[int, int], groups: int) -> list[Tensor]:
    """Return one ``(N, G, C / G, H, W)`` view per tap: the features shifted by the tap's offset."""
    N, C, H, W = features.shape
    k = math.isqrt(kernels.shape[1] // groups)
    if kernels.shape != (N, groups * k * k, *size) or k % 2 == 0 or C % groups:
        raise ValueError(
            f"features {tuple(features.shape)} in {groups} groups need kernels of shape "
            f"({N}, {groups} * k * k, {size[0]}, {size[1]}) with an odd k, and channels divisible "
            f"by {groups}; got kernels {tuple(kernels.shape)}"
        )
    r = k // 2
    padded = F.pad(features, (r, r, r, r)).unflatten(1, (groups, C // groups))
    return [padded[..., i : i + H, j : j + W] for i in range(k) for j in range(k)]


class _Carafe(nn.Module):
    """Network that predicts the weights."""

    def __init__(
        self,
        channels: int,
        *,
        scale: int,
        kernel_size: int,
        groups: int,
        compressed_channels: int,
        encoder_kernel_size: int,
        sub_pixels: int,
        stride: int,
    ) -> None:
        super().__init__()
        odd = {"kernel_size": kernel_size, "encoder_kernel_size": encoder_kernel_size}
        for name, value in odd.items():
            if value < 1 or value % 2 == 0:
                raise ValueError(f"{name} must be odd, got {value}")
        if scale < 1:
            raise ValueError(f"scale must be at least 1, got {scale}")
        if channels % groups:
            raise ValueError(f"groups must divide the {channels} channels, got {groups}")
        self.in_channels = self.out_channels = channels
        self.scale = scale
        self.kernel_size = kernel_size
        self.groups = groups
        self.channel_compressor = nn.Conv2d(channels, compressed_channels, 1)
        self.content_encoder = nn.Conv2d(
            compressed_channels,
            groups * kernel_size**2 * sub_pixels,
            encoder_kernel_size,
            padding=encoder_kernel_size // 2,
            stride=stride,
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights. The encoder's are small, so that all taps start nearly equal."""
        nn.init.xavier_uniform_(self.channel_compressor.weight)
        nn.init.normal_(self.content_encoder.weight, std=0.001)
        for conv in (self.channel_compressor, self.content_encoder):
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def _encode(self, features: Tensor) -> Tensor:
        return self.content_encoder(self.channel_compressor(features))

    def _normalize(self, logits: Tensor, features: Tensor) -> Tensor:
        """Apply softmax to the taps of each group, in at least float32; return the features' dtype.

        Features and weights of the same dtype avoid a conversion of every tap under autocast.
        """
        taps = logits.unflatten(1, (self.groups, self.kernel_size**2))
        wide = torch.promote_types(logits.dtype, torch.float32)
        return taps.softmax(2, dtype=wide).to(features.dtype).flatten(1, 2)

    def extra_repr(self) -> str:
        """Return the hyper-parameters for ``print(model)``."""
        return f"scale={self.scale}, kernel_size={self.kernel_size}, groups={self.groups}"


class CarafeUpsample(_Carafe):
    """Upsampling by CARAFE: ``(N, channels, H, W)`` to ``(N, channels, scale * H, scale * W)``.

    The defaults are the paper's. Weights have the names and shapes of mmcv's ``CARAFEPack``. Under
    autocast, the softmax over the taps is in float32 and the weighted sum in the dtype of the
    features. In eager mode the taps run one after the other; ``torch.compile`` fuses them.

    Args:
        channels: C, of the input and of the output.
        scale: s, upsampling factor.
        kernel_size: k, odd; the window width at the input's resolution.
        groups: G, groups of channels with their own weights.
        compressed_channels: channels from which the weights are predicted.
        encoder_kernel_size: odd width of the convolution that predicts the weights.

    Raises:
        ValueError: a kernel size is even, scale is less than 1, or groups do not divide channels.
    """

    def __init__(
        self,
        channels: int,
        *,
        scale: int = 2,
        kernel_size: int = 5,
        groups: int = 1,
        compressed_channels: int = 64,
        encoder_kernel_size: int = 3,
    ) -> None:
        super().__init__(
            channels,
            scale=scale,
            kernel_size=kernel_size,
            groups=groups,
            compressed_channels=compressed_channels,
            encoder_kernel_size=encoder_kernel_size,
            sub_pixels=scale**2,
            stride=1,
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to ``(N, C, s * H, s * W)``."""
        kernels = self._normalize(self._shuffle(self._encode(features)), features)
        return carafe(features, kernels, scale=self.scale, groups=self.groups)

    def _shuffle(self, x: Tensor) -> Tensor:
        """Do the same as ``F.pixel_shuffle``, whose backward pass fails for an empty batch."""
        N, channels, H, W = x.shape
        s = self.scale
        sub_pixels = x.reshape(N, channels // s**2, s, s, H, W).permute(0, 1, 4, 2, 5, 3)
        return sub_pixels.reshape(N, channels // s**2, s * H, s * W)


class CarafeDownsample(_Carafe):
    """Downsampling by CARAFE++: ``(N, channels, H, W)`` to ``(N, channels, H / s, W / s)``.

    Sizes are rounded up, as by a convolution of stride s. See :class:`CarafeUpsample` for the
    dtypes under autocast.

    Args:
        channels: C, of the input and of the output.
        scale: s, downsampling factor.
        kernel_size: k, odd; the window width at the input's resolution.
        groups: G, groups of channels with their own weights.
        compressed_channels: channels from which the weights are predicted. The default is the one
            of upsampling.
        encoder_kernel_size: odd width of the convolution of stride s that predicts the weights.

    Raises:
        ValueError: a kernel size is even, scale is less than 1, or groups do not divide channels.
    """

    def __init__(
        self,
        channels: int,
        *,
        scale: int = 2,
        kernel_size: int = 5,
        groups: int = 1,
        compressed_channels: int = 64,
        encoder_kernel_size: int = 3,
    ) -> None:
        super().__init__(
            channels,
            scale=scale,
            kernel_size=kernel_size,
            groups=groups,
            compressed_channels=compressed_channels,
            encoder_kernel_size=encoder_kernel_size,
            sub_pixels=1,
            stride=scale,
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to ``(N, C, ceil(H / s), ceil(W / s))``."""
        kernels = self._normalize(self._encode(features), features)
        return carafe_down(features, kernels, scale=self.scale, groups=self.groups)
