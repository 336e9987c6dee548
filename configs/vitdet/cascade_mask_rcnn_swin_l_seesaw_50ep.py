"""Cascade Mask R-CNN with Swin-L, Seesaw Loss, repeat factor sampling, 50 epochs.

The recipe of cascade_mask_rcnn_swin_l_federated_50ep.py with another loss and classifier. No
published results: none is known of Seesaw Loss in this recipe. Not yet run with this code.
"""

from ..common.backbones.swin import swin_large as _swin_large
from .cascade_mask_rcnn_swin_b_seesaw_50ep import (
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
