"""The semantic branch of Hybrid Task Cascade (section 3.2 of https://arxiv.org/abs/1901.07518).

Shapes in this module:
    N: images
    D: channels
    C: classes of pixels, things and stuff
    H, W: height and width of the padded images
    h, w: height and width of the fused map
    R: RoIs of all images
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from detectron2.structures import Boxes
from fvcore.nn.weight_init import c2_msra_fill
from torch import Tensor, nn
from torch.nn import functional as F


def _conv(in_channels: int, out_channels: int, size: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, size, padding=size // 2)
    c2_msra_fill(conv)
    return conv


class FusedSemanticHead(nn.Module):
    """Segmentation of the whole image from all levels of a feature pyramid.

    Each level passes through a 1 x 1 convolution with ReLU and is resized to the size of
    ``fusion_level``. Their sum passes through 3 x 3 convolutions with ReLU. Two 1 x 1 convolutions
    follow: ``logits``, and ``embedding`` with ReLU, which is pooled for RoIs. As in mmdet, levels
    are resized with ``align_corners=True``.

    Args:
        num_classes: C; 183 for COCO's stuff and things.
        in_features: names of the levels, finest first.
        fusion_level: name of the level whose size the map has.
        in_channels: channels of the levels.
        channels: D, equal to that of the RoI features, which the embedding is added to.
        num_convs: number of 3 x 3 convolutions.
        loss: pixel loss, see :mod:`d2_seesaw.modeling.semantic_heads`. None is the loss in mmdet:
            the cross-entropy summed over labeled pixels, divided by the number of all pixels.
        loss_weight: factor on the loss.
        ignore_value: label of pixels without a class, also in the padding.

    Raises:
        ValueError: ``fusion_level`` is not one of ``in_features``, or the loss has another number
            of classes.
    """

    def __init__(
        self,
        num_classes: int = 183,
        *,
        in_features: Sequence[str] = ("p2", "p3", "p4", "p5", "p6"),
        fusion_level: str = "p3",
        in_channels: int = 256,
        channels: int = 256,
        num_convs: int = 4,
        loss: nn.Module | None = None,
        loss_weight: float = 0.2,
        ignore_value: int = 255,
    ) -> None:
        super().__init__()
        if fusion_level not in in_features:
            raise ValueError(f"fusion_level {fusion_level!r} is not one of {list(in_features)}")
        expected = getattr(loss, "num_classes", num_classes)
        if expected != num_classes:
            raise ValueError(
                f"num_classes is {expected} in the loss and {num_classes} in the semantic head: "
                "they must be equal"
            )
        self.num_classes = num_classes
        self.in_features = list(in_features)
        self.fusion_level = fusion_level
        self.loss = loss
        self.loss_weight = loss_weight
        self.ignore_value = ignore_value
        self.lateral = nn.ModuleList(_conv(in_channels, in_channels, 1) for _ in in_features)
        dims = [in_channels] + [channels] * num_convs
        self.convs = nn.ModuleList(_conv(before, after, 3) for before, after in pairwise(dims))
        self.embedding = _conv(dims[-1], channels, 1)
        self.logits = _conv(dims[-1], num_classes, 1)

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Compute ``(N, C, h, w)`` logits and the ``(N, D, h, w)`` embedding.

        Args:
            features: feature maps by name, as the backbone returns them.

        Raises:
            ValueError: a level is missing.
        """
        missing = [name for name in self.in_features if name not in features]
        if missing:
            raise ValueError(f"in_features {missing} are not among {sorted(features)}")
        size = features[self.fusion_level].shape[-2:]
        fused: Any = 0
        for name, conv in zip(self.in_features, self.lateral, strict=True):
            x = features[name]
            if name != self.fusion_level:
                x = F.interpolate(x, size=size, mode="bilinear", align_corners=True)
            fused = fused + F.relu(conv(x))
        for conv in self.convs:
            fused = F.relu(conv(fused))
        return self.logits(fused), F.relu(self.embedding(fused))

    def losses(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute ``loss_semantic``.

        Labels are reduced to the size of the logits by their nearest pixels, as in mmdet.

        Args:
            logits: ``(N, C, h, w)``.
            labels: ``(N, H, W)`` integers in ``[0, C)`` or ``ignore_value``.
        """
        # Nearest neighbors exist for floating point only; float32 is exact for these integers.
        small = F.interpolate(labels[:, None].float(), size=logits.shape[-2:], mode="nearest")
        small = small[:, 0].long()
        with torch.autocast(logits.device.type, enabled=False):
            if self.loss is not None:
                loss = self.loss(logits.float(), small)
            else:
                total = F.cross_entropy(
                    logits.float(), small, ignore_index=self.ignore_value, reduction="sum"
                )
                loss = total / small.numel()
        return {"loss_semantic": self.loss_weight * loss}


class SemanticPooler(nn.Module):
    """Pooler that adds the semantic branch's features of a RoI to its other features.

    Replaces the pooler it wraps. The map is passed as one more feature map.

    Args:
        pooler: pooler of the feature maps.
        semantic_pooler: pooler of the semantic branch's map. Its result is averaged to the size of
            the other features if it is larger.
    """

    def __init__(self, pooler: nn.Module, semantic_pooler: nn.Module) -> None:
        super().__init__()
        self.pooler = pooler
        self.semantic_pooler = semantic_pooler

    def forward(self, x: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        """Pool boxes.

        Args:
            x: the pooler's feature maps, then the ``(N, D, h, w)`` map of the semantic branch.
            box_lists: boxes per image.

        Returns:
            ``(R, D, height, width)`` features, in the order of the boxes.
        """
        *maps, semantic = x
        pooled = self.pooler(maps, box_lists)
        added = self.semantic_pooler([semantic], box_lists)
        if added.shape[-2:] != pooled.shape[-2:]:
            added = F.adaptive_avg_pool2d(added, pooled.shape[-2:])
        return pooled + added
