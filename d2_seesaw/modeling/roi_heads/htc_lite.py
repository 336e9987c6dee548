"""HTC-Lite: a cascade with one mask head and a global context encoder.

From appendix D.1 of the Seesaw Loss paper (arXiv 2008.10032), which replaces HTC's semantic branch
by a context encoder: convolutions and a global average pooling on a feature map, an auxiliary
linear layer with a multi-label binary cross-entropy, and the pooled vector added to the RoI
features. Its code was not published. Details that the paper leaves open are arguments here; most
defaults are as in SCNet's ``GlobalContextHead`` (mmdet).

Shapes in this module:
    N: images in the batch
    D: channels of the feature map and of the context vector
    C: foreground classes
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from detectron2.modeling.poolers import convert_boxes_to_pooler_format
from detectron2.structures import Boxes, ImageList, Instances
from fvcore.nn.weight_init import c2_msra_fill
from torch import Tensor, nn

from d2_seesaw.modeling.roi_heads.cascade import LossDrivenCascadeROIHeads

CONTEXT = "context"
"""Name of the context vectors among the features of a batch."""


class _Residual(nn.Module):
    """``x + conv(relu(conv(x)))`` without ReLU after the sum: SCNet's ``SimplifiedBasicBlock``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _conv(channels)
        self.conv2 = _conv(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x)))


def _conv(channels: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels, channels, 3, padding=1)
    c2_msra_fill(conv)
    return conv


def _layers(channels: int, num_convs: int, *, residual: bool) -> nn.Sequential:
    if residual:
        return nn.Sequential(*(_Residual(channels) for _ in range(num_convs // 2)))
    pairs = ((_conv(channels), nn.ReLU()) for _ in range(num_convs))
    return nn.Sequential(*(layer for pair in pairs for layer in pair))


class GlobalContextEncoder(nn.Module):
    """Encoder of images into context vectors, with a multi-label classification loss.

    Args:
        num_classes: C.
        channels: D, equal to that of the RoI features, which the vector is added to.
        in_feature: the feature map to encode; P6, the coarsest of an FPN, in SCNet.
        num_convs: number of 3 x 3 convolutions before the pooling.
        residual: group them in residual pairs, as SCNet's configs do, instead of a ReLU after each.
        loss_weight: factor on the loss; 3 in SCNet, for 80 classes.
        federated: treat only classes that were verified to be absent as negatives, and ignore all
            other classes that are not annotated. For data like LVIS, where "not annotated" does not
            mean "absent". Needs :class:`FederatedRCNN`, which passes the verified negatives. Not in
            the paper, so by default all classes count.
        masked_mean: pool over the image without its padding. Off in SCNet.
        stride: stride of ``in_feature``; used by ``masked_mean``.

    Raises:
        ValueError: ``residual`` with an odd number of convolutions.
    """

    class_outputs: ClassVar = {"classifier": 1}
    """Number of outputs for each class, by the names of layers."""

    def __init__(
        self,
        num_classes: int,
        *,
        channels: int = 256,
        in_feature: str = "p6",
        num_convs: int = 4,
        residual: bool = False,
        loss_weight: float = 3.0,
        federated: bool = False,
        masked_mean: bool = False,
        stride: int = 64,
    ) -> None:
        super().__init__()
        if residual and num_convs % 2:
            raise ValueError(f"residual=True needs an even number of convolutions, got {num_convs}")
        self.num_classes = num_classes
        self.in_feature = in_feature
        self.loss_weight = loss_weight
        self.federated = federated
        self.masked_mean = masked_mean
        self.stride = stride
        self.layers = _layers(channels, num_convs, residual=residual)
        self.classifier = nn.Linear(channels, num_classes)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(
        self, features: Mapping[str, Tensor], image_sizes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """Encode the images of a batch.

        Args:
            features: feature maps by name, as the backbone returns them.
            image_sizes: height and width of each image before padding.

        Returns:
            ``(N, D, 1, 1)`` context vectors.

        Raises:
            ValueError: ``in_feature`` is missing, or ``stride`` does not match its size.
        """
        if self.in_feature not in features:
            raise ValueError(f"in_feature {self.in_feature!r} is not one of {sorted(features)}")
        x = self.layers(features[self.in_feature])
        if not self.masked_mean:
            return x.mean(dim=(2, 3), keepdim=True)
        return torch.stack(
            [self._unpadded(image, size) for image, size in zip(x, image_sizes, strict=True)]
        )

    def _unpadded(self, x: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Return the ``(D, 1, 1)`` mean of ``(D, H, W)`` over the unpadded image."""
        height, width = (math.ceil(side / self.stride) for side in image_size)
        if height > x.shape[1] or width > x.shape[2]:
            raise ValueError(
                f"{self.in_feature} of shape {tuple(x.shape[1:])} is too small for an image of "
                f"{tuple(image_size)} at stride {self.stride}"
            )
        return x[:, :height, :width].mean(dim=(1, 2), keepdim=True)

    def logits(self, context: Tensor) -> Tensor:
        """Map ``(N, D, 1, 1)`` vectors to ``(N, C)`` logits of each class being in the image."""
        return self.classifier(context.flatten(1))

    def losses(
        self,
        context: Tensor,
        targets: Sequence[Instances],
        negatives: Sequence[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Compute ``loss_context``: mean binary cross-entropy over images and (known) classes.

        Args:
            context: ``(N, D, 1, 1)`` output of ``forward``.
            targets: per image, with ``gt_classes`` in ``[0, C)``, in any number and order.
            negatives: per image, classes in ``[0, C)`` verified to be absent. Used only if
                ``federated``. A class that is also annotated counts as present.

        Raises:
            ValueError: ``federated`` without ``negatives``.
        """
        logits = self.logits(context).float()
        present = self._multi_hot([t.gt_classes for t in targets], logits)
        known = torch.ones_like(logits)
        if self.federated:
            if negatives is None:
                raise ValueError(
                    "federated=True needs the classes verified to be absent from each image: use "
                    "d2_seesaw.modeling.FederatedRCNN as the model"
                )
            known = self._multi_hot(negatives, logits).maximum(present)
        total = F.binary_cross_entropy_with_logits(logits, present, weight=known, reduction="sum")
        return {"loss_context": self.loss_weight * total / known.sum().clamp(min=1)}

    def _multi_hot(self, classes: Sequence[Tensor], like: Tensor) -> Tensor:
        marks = torch.zeros_like(like)
        for row, indices in zip(marks, classes, strict=True):
            row[indices.to(like.device)] = 1
        return marks


class ContextPooler(nn.Module):
    """Pooler that adds the context vector of the image to every pixel of its RoI features.

    Replaces the pooler it wraps. The context vectors are passed as one more feature map, so that
    they reach all users of the pooler without any state.

    Args:
        pooler: pooler of the feature maps, such as Detectron2's ``ROIPooler``.
    """

    def __init__(self, pooler: nn.Module) -> None:
        super().__init__()
        self.pooler = pooler

    def forward(self, x: list[Tensor], box_lists: list[Boxes], **options: Any) -> Tensor:
        """Pool boxes.

        Args:
            x: the pooler's feature maps, then ``(N, D, 1, 1)`` context vectors of the N images.
            box_lists: Ri boxes per image.
            options: other arguments of the pooler, such as the offsets of an OffsetROIPooler.

        Returns:
            ``(sum of Ri, D, H, W)`` features, in the order of the boxes.
        """
        *maps, context = x
        pooled = self.pooler(maps, box_lists, **options)
        images = convert_boxes_to_pooler_format(box_lists)[:, 0].long()
        return pooled + context[images]


class HTCLiteROIHeads(LossDrivenCascadeROIHeads):
    """Cascade ROI heads with a global context encoder and one mask head.

    The context vector of an image is added to the RoI features of all its boxes, in every box stage
    and before the mask head. The encoder is trained by its ``loss_context`` and through both uses.

    Args:
        context_encoder: encoder of one of the backbone's feature maps, with as many channels as the
            RoI features.
        mask_rois: RoIs that the mask head is trained on: those sampled for the ``"last"`` stage, as
            in SCNet, or ``"refined"``: the boxes that the last stage predicts, matched, labeled
            and, with ``resample``, sampled once more. Figure 5 of the paper allows both readings.
            The mask loss is not scaled, because it is the only supervision of the masks.
        cascade_options: other arguments of :class:`LossDrivenCascadeROIHeads`.

    Raises:
        ValueError: encoder and heads differ in the number of classes, or the base class raises it.
    """

    def __init__(
        self,
        *,
        context_encoder: GlobalContextEncoder,
        mask_rois: str = "last",
        **cascade_options: Any,
    ) -> None:
        super().__init__(mask_rois=mask_rois, **cascade_options)
        if context_encoder.num_classes != self.num_classes:
            raise ValueError(
                f"num_classes is {context_encoder.num_classes} in the context encoder and "
                f"{self.num_classes} in the ROI heads: they must be equal"
            )
        self.context_encoder = context_encoder
        self.box_pooler = ContextPooler(self.box_pooler)
        self.box_in_features = [*self.box_in_features, CONTEXT]
        if self.mask_on:
            self.mask_pooler = ContextPooler(self.mask_pooler)
            self.mask_in_features = [*self.mask_in_features, CONTEXT]

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Return losses in training, detections in inference; see ``ROIHeads.forward``.

        If the encoder is federated, ``images`` must have ``negative_classes``; see
        :class:`FederatedRCNN`.
        """
        features = self.extended(features, proposals)
        proposals, losses = super().forward(images, features, proposals, targets)
        if self.training and targets is not None:
            negatives = getattr(images, "negative_classes", None)
            losses |= self.context_encoder.losses(features[CONTEXT], targets, negatives)
        return proposals, losses

    def extended(
        self, features: dict[str, Tensor], instances: list[Instances]
    ) -> dict[str, Tensor]:
        """Add the context vectors, as a feature map of one pixel."""
        if CONTEXT in features:  # inference calls this twice
            return features
        context = self.context_encoder(features, [i.image_size for i in instances])
        return {**features, CONTEXT: context}
