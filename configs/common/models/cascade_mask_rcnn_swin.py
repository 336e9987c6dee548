"""Cascade Mask R-CNN of Detectron2's ViTDet project for LVIS v1, with Swin-B and an FPN.

The rest of the model and ``federated`` and ``seesaw`` are those of ``cascade_mask_rcnn_vitdet.py``.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from ..backbones.swin import swin_base as _swin_base
from .cascade_mask_rcnn_vitdet import federated, model, seesaw

model.backbone = L(FPN)(
    **_swin_base,
    out_channels=256,
    top_block=L(LastLevelMaxPool)(),
    norm="LN",
    square_pad=1024,
)
model.backbone.bottom_up.drop_path_rate = 0.3
