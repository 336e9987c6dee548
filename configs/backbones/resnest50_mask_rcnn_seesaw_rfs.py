"""Mask R-CNN with timm's ResNeSt-50, Seesaw Loss, repeat factor sampling, LVIS v1, 24 epochs.

Needs `pip install timm`. For another timm backbone, set model.backbone.bottom_up.name=NAME.
No published results: the recipe is our own.
"""

from ..common.backbones.resnest import resnest_50 as _resnest_50
from ..lvis_v1.mask_rcnn_r50_fpn_seesaw_norm_mask_rfs_2x import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
    tta,
)

model.backbone.bottom_up = _resnest_50
model.backbone.bottom_up.pretrained = True
optimizer.params.weight_decay_norm = 0.0
train.init_checkpoint = ""
