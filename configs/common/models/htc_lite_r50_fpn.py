"""HTC-Lite R50-FPN for LVIS v1: the cascade with one mask head and a global context encoder."""

from detectron2.config import LazyCall as L

from d2_seesaw.modeling.roi_heads import GlobalContextEncoder, HTCLiteROIHeads

from ..heads.mask import mask_head as _mask_head
from .cascade_mask_rcnn_r50_fpn import model

_cascade = {key: model.roi_heads[key] for key in model.roi_heads if key != "_target_"}
_cascade.update(mask_head=_mask_head, mask_in_features="${.box_in_features}")
model.roi_heads = L(HTCLiteROIHeads)(
    context_encoder=L(GlobalContextEncoder)(
        num_classes="${..num_classes}",
        channels=256,
        in_feature="p6",
        num_convs=4,
        residual=False,
        loss_weight=3.0,
        federated=False,
        masked_mean=False,
    ),
    mask_rois="last",
    **_cascade,
)
