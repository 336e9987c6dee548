"""RoIAlign of all levels of a feature pyramid as one weighted sum of rows, for training on CPUs.

Samples are on a grid, and bilinear interpolation is a product of an interpolation in y and one in
x. The value of a bin is therefore a sum of a few pixels, each of which has a weight for y times a
weight for x. Pixels are rows of channels that are contiguous in memory, and ``F.embedding_bag``
adds rows fast, forward and backward. torchvision's operator goes through the channels one by one.

Shapes in this module:
    N: images
    D: channels
    L: levels
    R: RoIs of all images
    B: bins per side of a RoI
    G: samples per side of a bin, at most
    K: pixels per side of a bin, at most
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_SAMPLES = 64
"""Largest number of samples per side of a bin. With more, RoIs are larger than any usual image."""
CHUNK = 1 << 20
"""Number of pixels of bins, padded to the largest bin, that are gathered at once."""


def roi_align_pyramid(
    features: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    output_size: tuple[int, int],
    *,
    scales: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
) -> Tensor | None:
    """Apply ``torchvision.ops.roi_align`` to RoIs of several levels.

    Values and gradients are equal up to rounding errors. As in torchvision, RoIs get no gradient.

    Args:
        features: ``(N, D, H, W)`` of each level, float32 or float64.
        rois: ``(R, 5)``: image index, then x0, y0, x1, y1 in input pixels.
        levels: ``(R,)`` int64, the level of each RoI.
        output_size: bins in y and x.
        scales: pixels of each level per input pixel.
        sampling_ratio: samples per side of a bin; 0 or less takes one per pixel, rounded up.
        aligned: whether to shift RoIs by half a pixel, so that pixels have their centers at .5.

    Returns:
        ``(R, D, *output_size)``, with channels last in memory. None if there are no RoIs, or one
        with more than ``MAX_SAMPLES``: use torchvision's operator.
    """
    boxes = rois[:, 1:].detach() * rois.new_tensor(scales)[levels][:, None]
    if aligned:
        boxes = boxes - 0.5
    start, extent = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    if not aligned:
        extent = extent.clamp(min=1)
    sizes = torch.tensor([[f.shape[3], f.shape[2]] for f in features])[levels]
    samples = _sample_counts(extent, output_size, sampling_ratio)
    if len(rois) == 0 or not samples.max() <= MAX_SAMPLES:  # also if it is NaN
        return None
    x, y = (
        _axis(start[:, i], extent[:, i], sizes[:, i], samples[:, i], output_size[1 - i])
        for i in range(2)
    )
    rows = torch.cat([f.permute(0, 2, 3, 1).flatten(0, 2) for f in features])
    return _sum_rows(rows, _first_rows(features, rois, levels), sizes[:, 0], x, y)


class _Axis(NamedTuple):
    """Interpolation in x or y: ``(R, B, K)`` weights, and ``(R, B, K)`` int64 pixels."""

    weights: Tensor
    pixels: Tensor


def _sample_counts(extent: Tensor, output_size: tuple[int, int], sampling_ratio: int) -> Tensor:
    """Return ``(R, 2)`` samples per side of a bin in x and y; 0 or less if a RoI has no extent."""
    if sampling_ratio > 0:
        return torch.full_like(extent, sampling_ratio)
    return (extent / extent.new_tensor(output_size[::-1])).ceil()


def _axis(start: Tensor, extent: Tensor, size: Tensor, samples: Tensor, bins: int) -> _Axis:
    """Gather the pixels of each bin and their weights.

    Args:
        start: ``(R,)`` of the RoIs, in pixels.
        extent: ``(R,)`` of the RoIs, in pixels.
        size: ``(R,)`` int64 side of the feature map.
        samples: ``(R,)`` samples per bin.
        bins: B.
    """
    start, bin_size, samples, last = (
        t[:, None, None] for t in (start, extent / bins, samples, size - 1)
    )
    bin_ = torch.arange(bins, dtype=start.dtype)[:, None]
    sample = torch.arange(max(1, int(samples.max())), dtype=start.dtype)
    used = sample < samples
    count = samples.clamp(min=1)
    sample = sample.minimum(count - 1)
    at = start + bin_ * bin_size + (sample + 0.5) * bin_size / count
    # Samples up to a pixel outside have the value of the border, and samples further away are zero.
    weight = (used & (at >= -1) & (at <= last + 1)) / count
    at = at.clamp(min=0).minimum(last.to(at.dtype))
    low = at.long()
    share = at - low
    first = low.amin(dim=2, keepdim=True)
    weights = start.new_zeros(len(start), bins, int((low - first).max()) + 2)
    weights.scatter_add_(2, low - first, weight * (1 - share))
    weights.scatter_add_(2, low - first + 1, weight * share)
    return _Axis(weights, (first + torch.arange(weights.shape[2])).minimum(last))


def _first_rows(features: Sequence[Tensor], rois: Tensor, levels: Tensor) -> Tensor:
    """Return the ``(R,)`` index of the first row of the map that each RoI is on."""
    pixels = [f.shape[2] * f.shape[3] for f in features]
    of_level = [0, *accumulate(n * len(f) for n, f in zip(pixels, features, strict=True))]
    return torch.tensor(of_level)[levels] + rois[:, 0].long() * torch.tensor(pixels)[levels]


def _sum_rows(rows: Tensor, first: Tensor, width: Tensor, x: _Axis, y: _Axis) -> Tensor:
    """Add the rows of each bin, weighted by x and y; return ``(R, D, B, B)``."""
    lines = first[:, None, None] + y.pixels * width[:, None, None]
    padded = y.pixels[0].numel() * x.pixels[0].numel()
    parts = zip(*(t.split(max(1, CHUNK // padded)) for t in (lines, y.weights, *x)), strict=True)
    indices, weights = zip(*(_products(*part) for part in parts), strict=True)
    counts = (y.weights != 0).sum(dim=2)[:, :, None] * (x.weights != 0).sum(dim=2)[:, None]
    sums = F.embedding_bag(
        torch.cat(indices),
        rows,
        counts.flatten().cumsum(0) - counts.flatten(),
        mode="sum",
        per_sample_weights=torch.cat(weights),
    )
    return sums.view(*counts.shape, -1).permute(0, 3, 1, 2)


def _products(
    lines: Tensor, y_weights: Tensor, x_weights: Tensor, x_pixels: Tensor
) -> tuple[Tensor, Tensor]:
    """Return row and weight of each pixel, bin by bin, without those whose weight is zero.

    Args:
        lines: ``(R, B, K)`` first row of the line of pixels.
        y_weights: ``(R, B, K)`` weights of the lines.
        x_weights: ``(R, B, K)`` weights of the pixels in a line.
        x_pixels: ``(R, B, K)`` pixels in a line.
    """
    weights = y_weights[:, :, None, :, None] * x_weights[:, None, :, None, :]
    indices = lines[:, :, None, :, None] + x_pixels[:, None, :, None, :]
    # Not the products that are not zero: a product of two small weights may be.
    used = (y_weights != 0)[:, :, None, :, None] & (x_weights != 0)[:, None, :, None, :]
    kept = used.flatten().nonzero().squeeze(1)
    return indices.flatten()[kept], weights.flatten()[kept]
