"""Mask Scoring R-CNN (Huang et al., CVPR 2019, https://arxiv.org/abs/1903.00241).

A mask-IoU head predicts the IoU of predicted masks with their whole objects (section 3.3). Parts of
the object outside the box lower the IoU, because a mask is predicted only inside its box.

Shapes in this module:
    B: RoIs of all images
    D: channels of a RoI's feature of H x W pixels
    C: foreground classes
    M: side of a mask on its box
    N: RoIs or detections of an image
    K: objects of h x w pixels
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import BitMasks, Instances, PolygonMasks
from detectron2.structures.masks import polygons_to_bitmask
from fvcore.nn.weight_init import c2_msra_fill, c2_xavier_fill
from torch import Tensor, nn
from torch.nn import functional as F

from d2_seesaw.modeling.roi_heads.mask_head import MaskHeadWithPredictor

# Full-size masks in double precision at a time: 100 MB at 1280 x 1280.
_CHUNK = 8


def mask_iou_targets(
    logits: Tensor, instances: list[Instances], *, threshold: float = 0.0
) -> Tensor:
    """Compute the IoU of each binarized mask with the whole object of its RoI.

    In cells of the mask's grid,

        inter / (pred_area + gt_area_in_box / inside - inter)

    where ``inside`` is the fraction of the object inside the box (:func:`part_inside`). The IoU is
    0, not ``nan``, if the masks do not intersect or the object has no pixels. ``gt_area_in_box``
    and ``inter`` have the resolution of the grid: they are counted on the target of the mask loss,
    Detectron2's ``crop_and_resize``.

    Args:
        logits: ``(B, 1, M, M)`` of the RoIs' classes.
        instances: per image, RoIs with ``proposal_boxes`` and, if there are any, the ``gt_masks``
            of their matched objects.
        threshold: logits above it are mask. 0 in the paper's code; mmdet compares logits with 0.5.

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
    return torch.where(inter > 0, iou, 0.0).float()  # 0 / 0 if the box misses the object


def part_inside(masks: BitMasks | PolygonMasks, boxes: Tensor) -> Tensor:
    """Compute the fraction of each mask's area that is inside its box.

    A pixel on the edge of a box counts by its area inside, so the result is exact for
    :class:`BitMasks` and any box. Polygons are rasterized first, at the size of the image and by
    COCO's rules. Overlapping parts of an object thus count once. Pixels of a polygon beyond the
    right and bottom edges of the image count, too.

    Args:
        masks: masks of N objects, which may repeat.
        boxes: ``(N, 4)`` corners in pixels, possibly fractional or outside the image.

    Returns:
        ``(N,)`` float64, in [0, 1]; 0 for a mask without pixels.

    Raises:
        ValueError: the masks are of another type.
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
    """Rasterize each object once and compare it with all its boxes: indexing copies polygons."""
    places: dict[tuple[bytes, ...], list[int]] = {}
    for place, polygons in enumerate(objects):
        places.setdefault(tuple(p.tobytes() for p in polygons), []).append(place)
    parts = boxes.new_zeros(len(boxes))
    for same in places.values():
        bits, corner = _rasterized(objects[same[0]])
        parts[same] = _part_inside(bits[None], (boxes[same] - corner.repeat(2))[None])[0]
    return parts


def _rasterized(polygons: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Return the ``(h, w)`` pixels of an object's extent, and x and y of its upper left corner."""
    if not polygons:  # an augmentation may have cropped the object
        return torch.zeros(1, 1, dtype=torch.bool), torch.zeros(2)
    points = np.concatenate([p.reshape(-1, 2) for p in polygons])
    left, top = np.floor(points.min(0)).clip(min=0).astype(int)
    width, height = np.ceil(points.max(0)).clip(min=1).astype(int)
    # Not shifted before rasterization, which could round pixels at the edge differently.
    bits = polygons_to_bitmask(polygons, int(height), int(width))[top:, left:]
    return torch.from_numpy(bits), torch.tensor([left, top])


def _part_inside(bits: Tensor, boxes: Tensor) -> Tensor:
    """Compute the ``(K, n)`` fractions of ``(K, h, w)`` masks in their ``(K, n, 4)`` boxes."""
    # Double precision is exact, and not affected by autocast and TF32.
    pixels = bits.double()
    x0, y0, x1, y1 = boxes.unbind(-1)
    rows, columns = _covered(y0, y1, bits.shape[1]), _covered(x0, x1, bits.shape[2])
    inside = ((rows @ pixels) * columns).sum(dim=-1)
    return inside / pixels.sum(dim=(1, 2)).clamp(min=1)[:, None]


def _covered(start: Tensor, end: Tensor, size: int) -> Tensor:
    """Return ``(..., size)``: the length of each pixel's overlap with start to end."""
    pixel: Any = torch.arange(size, dtype=start.dtype, device=start.device)
    covered = torch.minimum(end[..., None], pixel + 1) - torch.maximum(start[..., None], pixel)
    return covered.clamp(min=0)


class MaskIoUHead(nn.Module):
    """Head that predicts the IoU of a predicted mask with its object (section 3.3).

    The input is the RoI's feature with the mask's probabilities, max-pooled to the same size, as
    one more channel. 3 x 3 convolutions follow, the last with stride 2, then fully connected layers
    and one output per class, of which only that of the RoI's class is used. Initialization and
    weight names are as in mmdet.

    Args:
        input_shape: shape of one RoI's feature, the mask head's input: D, H and W.
        num_classes: C, or 1 for one class-agnostic output.
        conv_dims: output channels of the convolutions.
        fc_dims: outputs of the fully connected layers before the last.
        loss_weight: factor on the loss, 1 in the paper. The factor of 0.5 in :meth:`loss` is the
            loss weight in mmdet.
        detach_mask: stop the gradient of the loss at the predicted mask. By default it also trains
            the mask head, as in the paper's code and mmdet.

    Raises:
        ValueError: ``input_shape`` lacks channels, height or width.
    """

    class_outputs: ClassVar = {"fc_mask_iou": 1}
    """Number of outputs for each class, by the names of layers."""

    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        num_classes: int,
        conv_dims: Sequence[int] = (256, 256, 256, 256),
        fc_dims: Sequence[int] = (1024, 1024),
        loss_weight: float = 1.0,
        detach_mask: bool = False,
    ) -> None:
        super().__init__()
        channels, height, width = input_shape.channels, input_shape.height, input_shape.width
        if not channels or not height or not width:
            raise ValueError(f"input_shape needs channels, height and width, got {input_shape}")
        dims = [channels + 1, *conv_dims]  # + 1 for the mask
        strides = [1] * (len(conv_dims) - 1) + [2]
        self.convs = nn.ModuleList(
            nn.Conv2d(d, e, 3, stride=s, padding=1)
            for (d, e), s in zip(pairwise(dims), strides, strict=True)
        )
        # Rounded like a convolution with stride 2.
        widths = [dims[-1] * ((height + 1) // 2) * ((width + 1) // 2), *fc_dims]
        self.fcs = nn.ModuleList(nn.Linear(d, e) for d, e in pairwise(widths))
        self.fc_mask_iou = nn.Linear(widths[-1], num_classes)
        self.num_classes = num_classes
        self.loss_weight = loss_weight
        self.detach_mask = detach_mask
        for conv in self.convs:
            c2_msra_fill(conv)
        for fc in self.fcs:
            c2_xavier_fill(fc)
        nn.init.normal_(self.fc_mask_iou.weight, std=0.01)
        nn.init.zeros_(self.fc_mask_iou.bias)

    def forward(self, x: Tensor, logits: Tensor, classes: Tensor | None = None) -> Tensor:
        """Predict IoUs, which are not clipped to [0, 1].

        Args:
            x: ``(B, D, H, W)`` features of the RoIs.
            logits: ``(B, 1, 2 H, 2 W)`` mask logits of the RoIs' classes.
            classes: ``(B,)`` indices in ``[0, C)``, or any if ``num_classes`` is 1.

        Returns:
            ``(B,)`` IoUs of the given classes, float32 also under autocast. Without ``classes``,
            ``(B, C)`` IoUs of all classes.
        """
        mask = logits.detach() if self.detach_mask else logits
        x = torch.cat([x, F.max_pool2d(mask.sigmoid(), 2)], dim=1)
        for conv in self.convs:
            x = F.relu(conv(x))
        x = x.flatten(1)
        for fc in self.fcs:
            x = F.relu(fc(x))
        if classes is None:
            return self.fc_mask_iou(x)
        # Only the row of the last layer that is needed: LVIS has 1203.
        rows = classes if self.num_classes > 1 else torch.zeros_like(classes)
        weight, bias = self.fc_mask_iou.weight[rows], self.fc_mask_iou.bias[rows]
        return (x.float() * weight.float()).sum(dim=1) + bias.float()

    def loss(self, predicted: Tensor, targets: Tensor) -> Tensor:
        """Compute half the squared error, averaged over the RoIs with a target above 0.

        Args:
            predicted: ``(B,)`` IoUs of the RoIs' true classes.
            targets: ``(B,)`` output of :func:`mask_iou_targets`.

        Returns:
            A scalar; a differentiable zero if there are no such RoIs.
        """
        counted = targets > 0
        error = torch.where(counted, predicted.float() - targets, 0.0).square().sum()
        return self.loss_weight * 0.5 * error / counted.sum().clamp(min=1)


class ScoredMaskHead(nn.Module):
    """A mask head with a mask-IoU head, for use as mask head in any of Detectron2's ROI heads.

    Adds the loss ``loss_mask_iou`` in training. In inference it adds ``mask_scores``, the score of
    each detection times the predicted IoU of its mask. ``scores`` do not change and rank boxes; the
    evaluators of this project rank masks by ``mask_scores``.

    In :class:`~d2_seesaw.modeling.LossDrivenCascadeROIHeads` with one mask head, the IoU head is
    trained on the same ``mask_rois``. With one mask head per stage, each has its own IoU head, and
    mask scores are averaged like the masks.

    Args:
        mask_head: predictor of the masks.
        iou_head: predictor of their IoUs from the same features.
        mask_threshold: mask logits above it are mask in the targets of ``iou_head``.

    Raises:
        ValueError: the mask head is of another type, or the heads differ in the number of classes.
    """

    def __init__(
        self, mask_head: nn.Module, *, iou_head: MaskIoUHead, mask_threshold: float = 0.0
    ) -> None:
        super().__init__()
        if not isinstance(mask_head, MaskHeadWithPredictor):
            raise ValueError(
                "mask_head must be a MaskHeadWithPredictor, which has the logits of one class; got "
                f"{type(mask_head).__name__}. Wrap each of several mask heads separately"
            )
        classes = [getattr(mask_head.predictor, "out_channels", None), iou_head.num_classes]
        if len(set(classes) - {None, 1}) > 1:
            raise ValueError(
                f"num_classes is {classes[0]} in the mask head and {classes[1]} in the mask-IoU "
                "head: they must be equal, or one of them 1"
            )
        self.mask_head = mask_head
        self.iou_head = iou_head
        self.mask_threshold = mask_threshold

    def forward(self, x: Tensor, instances: list[Instances]) -> Any:
        """Return losses in training, ``instances`` with masks and their scores in inference.

        Args:
            x: ``(B, channels, H, W)`` features of all RoIs.
            instances: per image, with ``proposal_boxes``, ``gt_classes`` and ``gt_masks``, or with
                ``pred_classes``. Without ``scores`` they get no ``mask_scores``.
        """
        logits = self.mask_head.class_logits(x, instances)
        results = self.mask_head.results(logits, instances)
        classes = torch.cat([i.gt_classes if self.training else i.pred_classes for i in instances])
        ious = self.iou_head(x, logits, classes)
        if self.training:
            targets = mask_iou_targets(logits, instances, threshold=self.mask_threshold)
            return results | {"loss_mask_iou": self.iou_head.loss(ious, targets)}
        for i, image_ious in zip(instances, ious.split([len(i) for i in instances]), strict=True):
            if i.has("scores"):
                i.mask_scores = i.scores * image_ious
        return instances
