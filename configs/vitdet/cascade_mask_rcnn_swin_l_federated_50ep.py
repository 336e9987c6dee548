"""Cascade Mask R-CNN with Swin-L, federated loss, repeat factor sampling, 50 epochs.

Detectron2's projects/ViTDet/configs/LVIS/cascade_mask_rcnn_swin_l_in21k_50ep.py. Detectron2's model
zoo: mask AP 41.4, box AP 46.0. Not yet run with this code.
"""

from ..common.backbones.swin import swin_large as _swin_large
from .cascade_mask_rcnn_swin_b_federated_50ep import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
    tta,
)

model.backbone.update(_swin_large)
model.backbone.bottom_up.drop_path_rate = 0.3
train.init_checkpoint = "detectron2://ImageNetPretrained/swin/swin_large_patch4_window7_224_22k.pth"
