"""Hybrid Task Cascade (HTC, Chen et al., CVPR 2019, https://arxiv.org/abs/1901.07518).

Box and mask stages are interleaved: mask head k is trained on the boxes that box stage k predicts,
and it sees the features of mask head k - 1. An optional semantic branch segments the whole image,
stuff included, and adds its features to those of all RoIs.
"""

from collections.abc import Sequence
from typing import Any

from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from d2_seesaw.modeling.roi_heads.cascade import LossDrivenCascadeROIHeads
from d2_seesaw.modeling.roi_heads.htc_semantic import FusedSemanticHead, SemanticPooler
from d2_seesaw.modeling.roi_heads.mask_head import HTCMaskHeads
from d2_seesaw.modeling.roi_heads.offset_pooler import OffsetROIPooler

SEMANTIC = "semantic"
"""Name of the semantic branch's map among the features of a batch."""


class HTCROIHeads(LossDrivenCascadeROIHeads):
    """Cascade ROI heads with interleaved boxes and masks, mask information flow and semantics.

    With ``resample=True`` and ``stage_loss_weights=[1, 0.5, 0.25]`` it trains as mmdet's HTC:
    each box stage and each mask stage samples its own RoIs, with the matcher of the stage.

    Losses are those of :class:`LossDrivenCascadeROIHeads`, ``loss_mask_stage0`` and so on, and
    ``loss_semantic`` of the semantic branch.

    Args:
        mask_head: K mask heads, see :class:`HTCMaskHeads`; None for boxes only.
        semantic_head: the semantic branch. Training then needs label maps, see
            :class:`~d2_seesaw.modeling.LabelMapRCNN`; inference does not. None leaves it out.
        semantic_pooler: pooler of the branch's map for all RoIs, with the size of the mask features
            (14 in mmdet). For boxes the result is averaged to their size. Without a
            ``semantic_head`` it is not used.
        mask_rois: ``"refined"`` is the interleaving: mask head k is trained on the boxes that box
            stage k predicts, matched, labeled and, with ``resample``, sampled as in that stage.
            ``"first"`` trains it on the RoIs of box stage k.
        information_flow: pass mask features from head to head.
        mask_fusion: ``"average"`` or ``"last"``, the ``fusion`` of :class:`HTCMaskHeads`.
        cascade_options: other arguments of :class:`LossDrivenCascadeROIHeads`.

    Raises:
        ValueError: a mask head is not supported, the semantic branch lacks its pooler, its RoIs are
            moved by TSD, or the base class raises it.
    """

    def __init__(
        self,
        *,
        mask_head: Sequence[nn.Module] | None = None,
        semantic_head: FusedSemanticHead | None = None,
        semantic_pooler: nn.Module | None = None,
        mask_rois: str = "refined",
        information_flow: bool = True,
        mask_fusion: str = "average",
        **cascade_options: Any,
    ) -> None:
        heads = None
        if mask_head is not None:
            several = [mask_head] if isinstance(mask_head, nn.Module) else mask_head
            heads = HTCMaskHeads(several, information_flow=information_flow, fusion=mask_fusion)
        super().__init__(mask_head=heads, mask_rois=mask_rois, **cascade_options)
        self.semantic_head = semantic_head
        if semantic_head is None:
            return
        if semantic_pooler is None:
            raise ValueError("semantic_head needs a semantic_pooler, which pools its map for RoIs")
        if isinstance(self.box_pooler, OffsetROIPooler):
            raise ValueError(
                "semantic_head does not support OffsetROIPooler, whose RoIs TSD moves: leave out "
                "the semantic branch (semantic_head=None) or use a ROIPooler"
            )
        self.box_pooler = SemanticPooler(self.box_pooler, semantic_pooler)
        self.box_in_features = [*self.box_in_features, SEMANTIC]
        if self.mask_on:
            self.mask_pooler = SemanticPooler(self.mask_pooler, semantic_pooler)
            self.mask_in_features = [*self.mask_in_features, SEMANTIC]

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Return losses in training, detections in inference; see ``ROIHeads.forward``.

        With a semantic branch, training images must have the label maps ``sem_seg``; see
        :class:`~d2_seesaw.modeling.LabelMapRCNN`.

        Raises:
            ValueError: training lacks targets or label maps.
        """
        if self.semantic_head is None or not self.training:
            return super().forward(images, features, proposals, targets)
        labels = getattr(images, "sem_seg", None)
        if labels is None:
            raise ValueError(
                "the semantic branch needs label maps: use d2_seesaw.modeling.LabelMapRCNN as the "
                "model and a dataset with label maps (d2_seesaw.data.register_label_maps), or "
                "leave the branch out with model.roi_heads.semantic_head=null"
            )
        logits, embedding = self.semantic_head(features)
        features = {**features, SEMANTIC: embedding}
        proposals, losses = super().forward(images, features, proposals, targets)
        return proposals, losses | self.semantic_head.losses(logits, labels)

    def extended(
        self, features: dict[str, Tensor], instances: list[Instances]
    ) -> dict[str, Tensor]:
        """Add the map of the semantic branch."""
        if self.semantic_head is None or SEMANTIC in features:
            return features
        _, embedding = self.semantic_head(features)
        return {**features, SEMANTIC: embedding}
