"""RoIAlign whose bins can be moved, with gradients to the features and to where they are moved.

Shapes in this module:
    N: images
    D: channels
    R: RoIs of all images
    B: bins of a RoI per side
    G: samples of a RoI per side, a whole number of them per bin
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
    """RoIAlign of RoIs that are moved as a whole, or bin by bin.

    With offsets of zero it is ``torchvision.ops.roi_align(aligned=True)``, which gives no gradient
    to boxes; here there is one to the offsets. As there, samples up to a pixel outside the map have
    the value of its border, and those further away are zero. Computed in float32 (float64 features:
    float64) whatever the features are, because half precision cannot tell pixels apart.

    Args:
        features: ``(N, D, H, W)``.
        rois: ``(R, 5)``: index of the image, then x0, y0, x1, y1 in units of which a pixel of
            ``features`` is ``1 / spatial_scale``.
        offsets: x and y in the same units, ``(R, 2)`` or ``(R, 2, B, B)``: of the RoI or of each of
            its bins, rows first.
        output_size: B.
        spatial_scale: see ``rois``.
        sampling_ratio: samples per bin and side, whose mean is the bin's value.

    Returns:
        ``(R, D, B, B)``, of the features' dtype.

    Raises:
        ValueError: offsets of any other shape.
    """
    B = output_size
    if offsets.shape not in ((len(rois), 2), (len(rois), 2, B, B)):
        raise ValueError(
            f"offsets must have shape ({len(rois)}, 2) or ({len(rois)}, 2, {B}, {B}) for "
            f"{len(rois)} RoIs and output_size {B}, got {tuple(offsets.shape)}"
        )
    precision = torch.promote_types(features.dtype, torch.float32)
    pooled = features.new_zeros((len(rois), features.shape[1], B, B))
    boxes = rois[:, 1:].to(precision) * spatial_scale
    points = _points(boxes, offsets.to(precision) * spatial_scale, B, sampling_ratio)
    # Images without RoIs as well: so the features of all of them always have a gradient.
    for n, image in enumerate(features):
        of_image = (rois[:, 0] == n).nonzero().squeeze(1)
        sampled = _sample(image.to(precision), points[of_image])
        bins = sampled.unflatten(3, (B, sampling_ratio)).unflatten(2, (B, sampling_ratio))
        pooled.index_put_((of_image,), bins.mean(dim=(3, 5)).to(pooled.dtype))
    return pooled


def _points(boxes: Tensor, offsets: Tensor, output_size: int, sampling_ratio: int) -> Tensor:
    """``(R, G, G, 2)`` x and y of the samples; 0 is the centre of the first pixel."""
    size = output_size * sampling_ratio
    fractions = (torch.arange(size, device=boxes.device, dtype=boxes.dtype) + 0.5) / size
    start, extent = boxes[:, :2] - 0.5, boxes[:, 2:] - boxes[:, :2]
    x, y = (start[..., None] + extent[..., None] * fractions).unbind(1)
    regular = torch.stack(
        [x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], dim=3
    )
    if offsets.dim() == 2:
        return regular + offsets[:, None, None]
    for side in (2, 3):
        offsets = offsets.repeat_interleave(sampling_ratio, dim=side)
    return regular + offsets.permute(0, 2, 3, 1)


def _sample(image: Tensor, points: Tensor) -> Tensor:
    """``(R, D, G, G)`` values of a ``(D, H, W)`` map at ``(R, G, G, 2)`` points."""
    R, G = points.shape[:2]
    size = points.new_tensor([image.shape[2], image.shape[1]])
    grid = ((2 * points + 1) / size - 1).reshape(1, R * G, G, 2)
    values = F.grid_sample(image[None], grid, padding_mode="border", align_corners=False)
    values = values[0].unflatten(1, (R, G)).transpose(0, 1)
    inside = ((points >= -1) & (points <= size)).all(dim=3)
    return values * inside[:, None]
