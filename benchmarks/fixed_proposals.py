"""Proposals that do not depend on the weights of an RPN, for measurements of training.

The sampled RoIs determine the cost of the heads and the class counts of the loss. Proposals from an
RPN depend on rounding errors, and an untrained RPN finds almost no object.
"""

from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn


class FixedProposals(nn.Module):
    """RPN that is trained as usual, but returns random boxes, part of them near the ground truth.

    The boxes are drawn on the CPU, so they are equal on all devices and in all precisions if the
    images come in the same order.

    Args:
        rpn: Detectron2's RPN. In evaluation mode its proposals are returned.
        per_object: number of boxes near each object; about half have an IoU of 0.5 or more.
        elsewhere: number of boxes anywhere in each image.
        seed: seed of the random boxes.
    """

    def __init__(
        self, rpn: nn.Module, *, per_object: int = 16, elsewhere: int = 64, seed: int = 0
    ) -> None:
        super().__init__()
        self.rpn = rpn
        self.per_object = per_object
        self.elsewhere = elsewhere
        self.generator = torch.Generator().manual_seed(seed)

    def forward(
        self, images: Any, features: dict[str, Tensor], targets: list[Instances] | None = None
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Run the RPN; in training mode, replace its proposals."""
        proposals, losses = self.rpn(images, features, targets)
        if self.training and targets is not None:
            proposals = [self._draw(target) for target in targets]
        return proposals, losses

    @torch.no_grad()
    def _draw(self, target: Instances) -> Instances:
        height, width = target.image_size
        objects = target.gt_boxes.tensor.cpu().repeat_interleave(self.per_object, dim=0)
        center, extent = (objects[:, :2] + objects[:, 2:]) / 2, objects[:, 2:] - objects[:, :2]
        center = center + 0.15 * extent * self._normal(len(objects))
        extent = extent * (0.2 * self._normal(len(objects))).exp()
        near = torch.cat([center - extent / 2, center + extent / 2], dim=1)
        corners = torch.rand(self.elsewhere, 4, generator=self.generator)
        corners = corners * torch.tensor([width, height, width, height])
        low, high = corners[:, :2].min(corners[:, 2:]), corners[:, :2].max(corners[:, 2:])
        boxes = Boxes(torch.cat([near, torch.cat([low, high + 1], dim=1)]))
        boxes.clip((height, width))
        boxes = boxes[boxes.nonempty(threshold=1.0)]
        return Instances(
            target.image_size,
            proposal_boxes=boxes.to(target.gt_boxes.device),
            objectness_logits=torch.zeros(len(boxes), device=target.gt_boxes.device),
        )

    def _normal(self, number: int) -> Tensor:
        return torch.randn(number, 2, generator=self.generator)
