"""Mask R-CNN with torchvision's ConvNeXt-T, Seesaw Loss, repeat factors, LVIS v1, 24 epochs.

No published results: the recipe is our own.
"""

from ..common.backbones.torchvision import convnext_tiny as _convnext_tiny
from ..common.optim import adamw as optimizer
from ..lvis_v1.mask_rcnn_r50_fpn_seesaw_norm_mask_rfs_2x import (
    dataloader,
    lr_multiplier,
    model,
    train,
    tta,
)

model.backbone.bottom_up = _convnext_tiny
optimizer.lr = 1e-4
train.amp.enabled = True
train.init_checkpoint = "torchvision://ConvNeXt_Tiny_Weights.IMAGENET1K_V1"
