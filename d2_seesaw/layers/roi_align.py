"""RoIAlign with learnable offsets of RoIs or bins.

Shapes in this module:
    N: images
    D: channels
    R: RoIs of all images
    B: bins per side of a RoI
    G: samples per side of a RoI, a multiple of B
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def roi_align_with_offsets(
    features: Tensor,
    rois: Tensor,
    offsets: Tensor,
    output_size: int,
    *,
    spatial_scale: float = 1.0,
    sampling_ratio: int = 2,
) -> Tensor:
    """Apply RoIAlign to RoIs that are moved as a whole or bin by bin.

    Zero offsets give ``torchvision.ops.roi_align(aligned=True)``. Unlike torchvision's boxes, the
    offsets get a gradient. Samples up to a pixel outside the map have the value of its border, and
    samples further away are zero, as in torchvision. Coordinates and sampling are in float32
    (float64 for float64 features), because half precision cannot resolve pixels.

    Args:
        features: ``(N, D, H, W)``.
        rois: ``(R, 5)``: image index, then x0, y0, x1, y1 in input pixels.
        offsets: x and y in input pixels, ``(R, 2)`` per RoI or ``(R, 2, B, B)`` per bin, in
            row-major order.
        output_size: B.
        spatial_scale: pixels of ``features`` per input pixel.
        sampling_ratio: samples per side of a bin; the bin's value is their mean.

    Returns:
        ``(R, D, B, B)`` in the features' dtype.

    Raises:
        ValueError: the offsets have another shape.
    """
    B = output_size
    if offsets.shape not in ((len(rois), 2), (len(rois), 2, B, B)):
        raise ValueError(
            f"offsets must have shape ({len(rois)}, 2) or ({len(rois)}, 2, {B}, {B}) for "
            f"{len(rois)} RoIs and output_size {B}, got {tuple(offsets.shape)}"
        )
    precision = torch.promote_types(features.dtype, torch.float32)
    pooled = features.new_zeros((rois.shape[0], features.shape[1], B, B))
    boxes = rois[:, 1:].to(precision) * spatial_scale
    points = _points(boxes, offsets.to(precision) * spatial_scale, B, sampling_ratio)
    # Includes images without RoIs, so that the features always get a gradient.
    for n, image in enumerate(features):
        image_rois = (rois[:, 0] == n).nonzero().squeeze(1)
        sampled = _sample(image.to(precision), points[image_rois])
        # -1 because ONNX reads a number of RoIs that is 0 as "unchanged".
        bins = sampled.reshape(-1, image.shape[0], B, sampling_ratio, B, sampling_ratio)
        pooled.index_put_((image_rois,), bins.mean(dim=(3, 5)).to(pooled.dtype))
    return pooled


def _points(boxes: Tensor, offsets: Tensor, output_size: int, sampling_ratio: int) -> Tensor:
    """Return ``(R, G, G, 2)`` x and y of the samples; 0 is the center of the first pixel."""
    size = output_size * sampling_ratio
    fractions = (torch.arange(size, device=boxes.device, dtype=boxes.dtype) + 0.5) / size
    start, extent = boxes[:, :2] - 0.5, boxes[:, 2:] - boxes[:, :2]
    x, y = (start[..., None] + extent[..., None] * fractions).unbind(1)
    regular = torch.stack(
        [x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], dim=3
    )
    if offsets.dim() == 2:
        return regular + offsets[:, None, None]
    # Not repeat_interleave, which ONNX does not have for a number of RoIs that is 0.
    bins = torch.arange(size, device=boxes.device) // sampling_ratio
    return regular + offsets[:, :, bins][..., bins].permute(0, 2, 3, 1)


def _sample(image: Tensor, points: Tensor) -> Tensor:
    """Sample a ``(D, H, W)`` map at ``(R, G, G, 2)`` points; return ``(R, D, G, G)`` values."""
    G = points.shape[1]
    # Not a tensor of both sides, which a traced model would keep as a constant.
    sides = image.shape[2], image.shape[1]
    scaled = [(2 * points[..., i] + 1) / side - 1 for i, side in enumerate(sides)]
    grid = torch.stack(scaled, dim=-1).reshape(1, -1, G, 2)
    values = F.grid_sample(image[None], grid, padding_mode="border", align_corners=False)
    values = values[0].unflatten(1, (-1, G)).transpose(0, 1)
    below = [points[..., i] <= side for i, side in enumerate(sides)]
    inside = (points >= -1).all(dim=3) & below[0] & below[1]
    return values * inside[:, None]
