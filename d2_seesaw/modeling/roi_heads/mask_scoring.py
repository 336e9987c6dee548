"""How well predicted masks fit the whole of their objects: what a mask-IoU head is to predict.

From Mask Scoring R-CNN (Huang et al., CVPR 2019, https://arxiv.org/abs/1903.00241), section 3.3. A
mask is predicted inside its box alone; that the box misses part of the object counts against it.

Shapes in this module:
    B: RoIs of all images
    M: edge of a mask on its box
    N: RoIs of an image
    K: objects, of h x w pixels
"""

from typing import Any

import numpy as np
import torch
from detectron2.structures import BitMasks, Instances, PolygonMasks
from detectron2.structures.masks import polygons_to_bitmask
from torch import Tensor

# Of full-size masks that are double precision at one time: 100 MB at 1280 x 1280.
_CHUNK = 8


def mask_iou_targets(
    logits: Tensor, instances: list[Instances], *, threshold: float = 0.0
) -> Tensor:
    """IoU of each predicted mask, binarised, with the whole of its RoI's object.

    In cells of the mask's grid,

        inter / (pred_area + gt_area_in_box / inside - inter)

    where ``inside`` is the part of the object that is in the box (:func:`part_inside`). It is 0
    where the two do not meet and for an object without a pixel, never ``nan``. It is as exact as
    the grid: ``gt_area_in_box`` and ``inter`` are counted on the crop that the mask loss has as its
    target, of which Detectron2 says ``crop_and_resize``.

    Args:
        logits: ``(B, 1, M, M)`` of the RoIs' own classes.
        instances: per image, RoIs with ``proposal_boxes`` and, where there are any, ``gt_masks``,
            the objects they are matched with.
        threshold: logits above it are mask: 0 in the paper's code, where mmdet compares logits
            with 0.5.

    Returns:
        ``(B,)`` float32, in [0, 1].
    """
    matched = [i for i in instances if len(i)]
    if not matched:
        return logits.new_zeros(0, dtype=torch.float32)
    size = logits.shape[-1]
    crops, parts = [], []
    for image in matched:
        masks, boxes = image.gt_masks, image.proposal_boxes.tensor
        crops.append(masks.crop_and_resize(boxes, size).to(logits.device))
        parts.append(part_inside(masks, boxes).to(logits.device))
    crop, predicted = torch.cat(crops), logits[:, 0] > threshold
    inter, pred_area, gt_area = (m.sum(dim=(1, 2)) for m in (crop & predicted, predicted, crop))
    iou = inter / (pred_area + gt_area / torch.cat(parts) - inter)
    return torch.where(inter > 0, iou, 0.0).float()  # 0 / 0 is an object that the box misses


def part_inside(masks: BitMasks | PolygonMasks, boxes: Tensor) -> Tensor:
    """The part of each mask's area that is inside its box.

    A pixel on the edge of a box counts by the area of it that is inside, so of :class:`BitMasks`
    this is exact for any box. Polygons become such masks first, at the size of the image and by
    COCO's rules, so parts of an object that overlap count once; pixels beyond the right and bottom
    edges of the image, which a polygon may have, count too.

    Args:
        masks: of N objects, which may repeat.
        boxes: ``(N, 4)`` corners in pixels, fractions and places outside the image included.

    Returns:
        ``(N,)`` float64, in [0, 1]; 0 for a mask without a pixel.

    Raises:
        ValueError: masks of another kind.
    """
    if isinstance(masks, BitMasks):
        bits = masks.tensor
        boxes = boxes.to(bits.device, torch.float64)[:, None]
        chunks = zip(bits.split(_CHUNK), boxes.split(_CHUNK), strict=True)
        return torch.cat([_part_inside(*chunk) for chunk in chunks])[:, 0]
    if isinstance(masks, PolygonMasks):
        return _part_of_polygons(masks.polygons, boxes.to("cpu", torch.float64)).to(boxes.device)
    raise ValueError(f"gt_masks must be BitMasks or PolygonMasks, got {type(masks).__name__}")


def _part_of_polygons(objects: list[list[np.ndarray]], boxes: Tensor) -> Tensor:
    """Each object is rasterised once, however many boxes it has: indexing copies polygons."""
    places: dict[tuple[bytes, ...], list[int]] = {}
    for place, polygons in enumerate(objects):
        places.setdefault(tuple(p.tobytes() for p in polygons), []).append(place)
    parts = boxes.new_zeros(len(boxes))
    for same in places.values():
        bits, corner = _rasterised(objects[same[0]])
        parts[same] = _part_inside(bits[None], (boxes[same] - corner.repeat(2))[None])[0]
    return parts


def _rasterised(polygons: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """An object's own ``(h, w)`` pixels, and the x and y of their upper left corner."""
    if not polygons:  # an augmentation may have cut it off
        return torch.zeros(1, 1, dtype=torch.bool), torch.zeros(2)
    points = np.concatenate([p.reshape(-1, 2) for p in polygons])
    left, top = np.floor(points.min(0)).clip(min=0).astype(int)
    width, height = np.ceil(points.max(0)).clip(min=1).astype(int)
    # Not moved to the corner before, as that could round a pixel of the edge to the other side.
    bits = polygons_to_bitmask(polygons, int(height), int(width))[top:, left:]
    return torch.from_numpy(bits), torch.tensor([left, top])


def _part_inside(bits: Tensor, boxes: Tensor) -> Tensor:
    """``(K, n)``: the part of each of ``(K, h, w)`` masks in each of its ``(K, n, 4)`` boxes."""
    # Double precision is exact, and out of reach of autocast and TF32.
    pixels = bits.double()
    x0, y0, x1, y1 = boxes.unbind(-1)
    rows, columns = _covered(y0, y1, bits.shape[1]), _covered(x0, x1, bits.shape[2])
    inside = ((rows @ pixels) * columns).sum(dim=-1)
    return inside / pixels.sum(dim=(1, 2)).clamp(min=1)[:, None]


def _covered(start: Tensor, end: Tensor, size: int) -> Tensor:
    """``(..., size)``: how much of each pixel's unit of length lies between start and end."""
    pixel: Any = torch.arange(size, dtype=start.dtype, device=start.device)
    covered = torch.minimum(end[..., None], pixel + 1) - torch.maximum(start[..., None], pixel)
    return covered.clamp(min=0)
