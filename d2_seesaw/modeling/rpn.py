"""RPN that is trained on the anchors of each image, as in mmdet, and an RPN head for CPUs."""

import math
from typing import Any

import torch
from detectron2.layers import Conv2d
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.structures import Boxes, Instances
from detectron2.utils.tracing import is_fx_tracing
from torch import Tensor, nn
from torch.jit import is_tracing  # pyright: ignore[reportPrivateImportUsage]

from d2_seesaw.layers import conv2d_sparse_gradient


class SampledRPNHead(StandardRPNHead):
    """``StandardRPNHead`` with a fast backward pass on CPUs, where few anchors are sampled.

    It has the arguments, weights and results of ``StandardRPNHead``, and its gradients up to
    rounding errors: its 3 x 3 convolutions are
    :func:`~d2_seesaw.layers.conv2d_sparse_gradient` in a training step on a CPU in full precision.
    """

    def _get_rpn_conv(self, in_channels: int, out_channels: int) -> Conv2d:
        return _RPNConv(
            in_channels, out_channels, kernel_size=3, stride=1, padding=1, activation=nn.ReLU()
        )


class _RPNConv(Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        is_traced = is_tracing() or torch.compiler.is_compiling() or is_fx_tracing()
        in_half = torch.is_autocast_enabled("cpu") or x.dtype != self.weight.dtype
        if self.bias is None or x.device.type != "cpu" or not torch.is_grad_enabled():
            return super().forward(x)
        if is_traced or in_half:
            return super().forward(x)
        return self.activation(conv2d_sparse_gradient(x, self.weight, self.bias))


class ValidAnchorRPN(RPN):
    """Detectron2's RPN, trained as in mmdet. Proposals are those of Detectron2.

    - Anchors across the border (``anchor_boundary_thresh``) are left out before anchors are matched
      with objects, so that an object's best anchor is one of the others. Detectron2 matches first.
    - So are anchors in the padding that an image has because another one of its batch is larger.
      For Detectron2 they are negatives.
    - The losses are divided by the number of sampled anchors, in which an image without positives
      counts as if it had one, and so for negatives. Detectron2 divides by
      ``batch_size_per_image``, which is larger if an image has few anchors.

    Args:
        size_divisibility: images have the centers of their valid anchors within their own size
            rounded up to a multiple of this.
        options: arguments of ``RPN``.
    """

    def __init__(self, *, size_divisibility: int = 32, **options: Any) -> None:
        super().__init__(**options)
        self.size_divisibility = size_divisibility

    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return labels and boxes of all anchors, per image; see ``RPN``."""
        every = Boxes.cat(anchors)
        all_labels, all_boxes = [], []
        for targets in gt_instances:
            valid = self._are_valid(every, targets.image_size)
            (labels,), (boxes,) = super().label_and_sample_anchors([every[valid]], [targets])
            all_labels.append(labels.new_full((len(every),), -1))
            all_labels[-1][valid] = labels
            all_boxes.append(boxes.new_zeros(len(every), 4))
            all_boxes[-1][valid] = boxes
        return all_labels, all_boxes

    def _are_valid(self, anchors: Boxes, image_size: tuple[int, int]) -> Tensor:
        height, width = (
            math.ceil(size / self.size_divisibility) * self.size_divisibility for size in image_size
        )
        x, y = anchors.get_centers().unbind(dim=1)
        # Centers are whole numbers, or halves, up to rounding errors.
        valid = (x < width - 0.25) & (y < height - 0.25)
        if self.anchor_boundary_thresh >= 0:
            valid &= anchors.inside_box(image_size, self.anchor_boundary_thresh)  # type: ignore[arg-type]
        return valid

    def losses(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        gt_labels: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        gt_boxes: list[Tensor],
    ) -> dict[str, Tensor]:
        """Return ``loss_rpn_cls`` and ``loss_rpn_loc``; see ``RPN``."""
        losses = super().losses(
            anchors, pred_objectness_logits, gt_labels, pred_anchor_deltas, gt_boxes
        )
        labels = torch.stack(gt_labels)
        sampled = sum((labels == kind).sum(dim=1).clamp(min=1).sum() for kind in (0, 1))
        scale = self.batch_size_per_image * len(labels) / sampled
        return {name: loss * scale for name, loss in losses.items()}
