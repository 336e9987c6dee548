"""Mask R-CNN with torchvision's ResNet-18, Seesaw Loss, repeat factors, LVIS v1, 24 epochs.

No published results: the recipe is our own.
"""

from ..common.backbones.torchvision import resnet_18 as _resnet_18
from ..lvis_v1.mask_rcnn_r50_fpn_seesaw_norm_mask_rfs_2x import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
    tta,
)

model.backbone.bottom_up = _resnet_18
train.init_checkpoint = "torchvision://ResNet18_Weights.IMAGENET1K_V1"
