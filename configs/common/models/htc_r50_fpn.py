"""Hybrid Task Cascade R50-FPN for LVIS v1: the cascade with interleaved boxes and masks.

Trained as in mmdet, without the semantic branch. ``add_semantic_branch`` adds the branch, whose
training needs label maps.
"""

from detectron2.config import LazyCall as L

from d2_seesaw.modeling import LabelMapRCNN
from d2_seesaw.modeling.roi_heads import FusedSemanticHead, HTCROIHeads, RowROIPooler

from .cascade_mask_rcnn_r50_fpn import model

model.roi_heads = L(HTCROIHeads)(
    mask_rois="refined",
    information_flow=True,
    mask_fusion="average",
    semantic_head=None,
    semantic_pooler=None,
    **{key: model.roi_heads[key] for key in model.roi_heads if key != "_target_"},
)


def add_semantic_branch(model, num_classes=183):
    """Add the semantic branch of mmdet's HTC to a model: ``num_classes`` things and stuff."""
    model._target_ = LabelMapRCNN
    model.roi_heads.update(
        semantic_head=L(FusedSemanticHead)(
            num_classes=num_classes,
            in_features="${model.proposal_generator.in_features}",
            fusion_level="p3",
            in_channels="${model.backbone.out_channels}",
            channels="${model.backbone.out_channels}",
            num_convs=4,
            loss=None,
            loss_weight=0.2,
            ignore_value=255,
        ),
        semantic_pooler=L(RowROIPooler)(
            output_size=14, scales=[1 / 8], sampling_ratio=0, pooler_type="ROIAlignV2"
        ),
    )
