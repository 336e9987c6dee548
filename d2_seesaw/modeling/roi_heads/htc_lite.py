"""HTC-Lite: a cascade with one mask head, whose RoI features know the whole image.

From appendix D.1 of the Seesaw Loss paper (arXiv 2008.10032). No code of it was published; what the
paper leaves open is an argument here or in :class:`GlobalContextEncoder`.
"""

from typing import Any

import torch
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from d2_seesaw.modeling.roi_heads.cascade import LossDrivenCascadeROIHeads
from d2_seesaw.modeling.roi_heads.context_encoder import GlobalContextEncoder

CONTEXT = "context"
"""Name of the context vectors among the features of a batch."""


class ContextPooler(nn.Module):
    """Features of RoIs with the context vector of their image added to every pixel.

    Takes the place of the pooler it wraps; the context vectors come as one more feature map, so
    they reach whatever pools RoI features, in training and in inference, without any state.

    Args:
        pooler: pools the feature maps, such as Detectron2's ``ROIPooler``.
    """

    def __init__(self, pooler: nn.Module) -> None:
        super().__init__()
        self.pooler = pooler

    def forward(self, x: list[Tensor], box_lists: list[Boxes], **options: Any) -> Tensor:
        """Pool boxes.

        Args:
            x: the pooler's feature maps, then ``(N, D, 1, 1)`` context vectors of the N images.
            box_lists: of each image, its Ri boxes.
            options: more arguments of the pooler, such as the offsets of an OffsetROIPooler.

        Returns:
            ``(sum of Ri, D, H, W)`` features, in the order of the boxes.
        """
        *maps, context = x
        pooled = self.pooler(maps, box_lists, **options)
        per_image = [len(boxes) for boxes in box_lists]
        repeats = torch.tensor(per_image, device=context.device)
        return pooled + context.repeat_interleave(repeats, dim=0, output_size=sum(per_image))


class HTCLiteROIHeads(LossDrivenCascadeROIHeads):
    """Cascade ROI heads with a global context encoder and one mask head.

    The context vector of an image is added to the RoI features of all its boxes, in every box stage
    and before the mask head, and the encoder is trained by its own ``loss_context`` as well as
    through both uses.

    Args:
        context_encoder: encodes one of the backbone's feature maps; its number of channels is that
            of the RoI features.
        mask_rois: where the mask head is trained: the RoIs sampled for the ``"last"`` stage, as in
            SCNet, or ``"refined"``: the boxes that the last stage predicts, matched, labelled and,
            if ``resample``, sampled once more. Figure 5 of the paper can be read either way. Its
            loss is not scaled: it is the only supervision of the masks.
        cascade_options: the other arguments of :class:`LossDrivenCascadeROIHeads`.

    Raises:
        ValueError: encoder and heads of different numbers of classes, or options that the cascade
            refuses.
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
                f"num_classes of the context encoder is {context_encoder.num_classes}, that of the "
                f"ROI heads is {self.num_classes}: they must be equal"
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
        """Losses in training, detections in inference; see ``ROIHeads.forward``.

        If the encoder is federated, ``images`` carries ``negative_classes``; see
        :class:`FederatedRCNN`.
        """
        features = self._with_context(features, proposals)
        proposals, losses = super().forward(images, features, proposals, targets)
        if self.training and targets is not None:
            negatives = getattr(images, "negative_classes", None)
            losses |= self.context_encoder.losses(features[CONTEXT], targets, negatives)
        return proposals, losses

    def box_predictions(
        self, features: dict[str, Tensor], proposals: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Boxes and scores for given proposals, before any threshold or suppression."""
        return super().box_predictions(self._with_context(features, proposals), proposals)

    def forward_with_given_boxes(
        self, features: dict[str, Tensor], instances: list[Instances]
    ) -> list[Instances]:
        """Add masks to ``instances``, whose boxes and classes are given."""
        return super().forward_with_given_boxes(self._with_context(features, instances), instances)

    def _forward_box(
        self,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> Any:
        return super()._forward_box(self._with_context(features, proposals), proposals, targets)

    def _with_context(
        self, features: dict[str, Tensor], instances: list[Instances]
    ) -> dict[str, Tensor]:
        if CONTEXT in features:  # inference comes by here twice
            return features
        context = self.context_encoder(features, [i.image_size for i in instances])
        return {**features, CONTEXT: context}
