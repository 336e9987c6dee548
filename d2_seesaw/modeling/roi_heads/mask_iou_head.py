"""The mask-IoU head of Mask Scoring R-CNN (Huang et al., https://arxiv.org/abs/1903.00241).

Shapes in this module:
    B: RoIs of all images
    D: channels of a RoI's feature, which has H x W pixels
    C: foreground classes
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from detectron2.layers import ShapeSpec
from fvcore.nn.weight_init import c2_msra_fill, c2_xavier_fill
from torch import Tensor, nn
from torch.nn import functional as F


class MaskIoUHead(nn.Module):
    """Predicts, from a RoI's feature and its predicted mask, how well the mask fits its object.

    The mask, as probabilities and max-pooled to the size of the feature, is one more channel of it.
    3 x 3 convolutions follow, of which the last has stride 2, then fully connected layers and one
    output per class; only that of the RoI's class is used. Section 3.3 of the paper; initialised,
    and its weights named below this module, as in mmdet.

    Args:
        input_shape: shape of one RoI's feature, the mask head's input: D, H and W.
        num_classes: C, or 1 for one output whatever the class.
        conv_dims: output channels of the convolutions.
        fc_dims: outputs of the fully connected layers before the last.
        loss_weight: factor on the loss. 1 is the paper's; mmdet has the half of :meth:`loss`
            written as a weight of 0.5.
        detach_mask: whether the loss stops at the predicted mask. By default it does not, as in the
            paper's code and mmdet: it trains the mask head too.

    Raises:
        ValueError: an ``input_shape`` without channels, height or width.
    """

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
        dims = [channels + 1, *conv_dims]  # one more: the mask
        strides = [1] * (len(conv_dims) - 1) + [2]
        self.convs = nn.ModuleList(
            nn.Conv2d(d, e, 3, stride=s, padding=1)
            for (d, e), s in zip(pairwise(dims), strides, strict=True)
        )
        # The same rounding as that of a convolution with stride 2.
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
        """Predicted IoUs, without bounds: 0 to 1 is what they are trained for.

        Args:
            x: ``(B, D, H, W)`` features of the RoIs.
            logits: ``(B, 1, 2 H, 2 W)`` mask logits of the RoIs' classes.
            classes: ``(B,)`` indices in ``[0, C)``; of any value if ``num_classes`` is 1.

        Returns:
            ``(B,)`` IoU of the given class, float32 also under autocast; without ``classes``,
            ``(B, C)`` of all.
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
        # The one row of the last layer that is needed: LVIS has 1203.
        rows = classes if self.num_classes > 1 else torch.zeros_like(classes)
        weight, bias = self.fc_mask_iou.weight[rows], self.fc_mask_iou.bias[rows]
        return (x.float() * weight.float()).sum(dim=1) + bias.float()

    def loss(self, predicted: Tensor, targets: Tensor) -> Tensor:
        """Half the squared error, averaged over the RoIs whose target is above 0.

        Args:
            predicted: ``(B,)`` IoUs of the RoIs' true classes.
            targets: ``(B,)``, of :func:`mask_iou_targets`.

        Returns:
            A scalar; 0, with a graph, where there are none.
        """
        counted = targets > 0
        error = torch.where(counted, predicted.float() - targets, 0.0).square().sum()
        return self.loss_weight * 0.5 * error / counted.sum().clamp(min=1)
