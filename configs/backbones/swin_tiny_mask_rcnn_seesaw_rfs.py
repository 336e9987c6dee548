"""Mask R-CNN with Detectron2's Swin-T, Seesaw Loss, repeat factor sampling, LVIS v1, 24 epochs.

No published results: the recipe is our own.
"""

from ..common.backbones.swin import swin_tiny as _swin_tiny
from ..common.optim import adamw as optimizer
from ..lvis_v1.mask_rcnn_r50_fpn_seesaw_norm_mask_rfs_2x import (
    dataloader,
    lr_multiplier,
    model,
    train,
    tta,
)

model.backbone.update(_swin_tiny)
# Swin's authors apply no weight decay to the relative position bias tables.
optimizer.params.overrides = dict(relative_position_bias_table=dict(weight_decay=0.0))
optimizer.lr = 1e-4
train.amp.enabled = True
train.init_checkpoint = "detectron2://ImageNetPretrained/swin/swin_tiny_patch4_window7_224.pth"
