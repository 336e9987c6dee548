"""Mask R-CNN with torchvision's MobileNetV2, Seesaw Loss, repeat factors, LVIS v1, 24 epochs.

No published results: the recipe is our own.
"""

from ..common.backbones.torchvision import mobilenet_v2 as _mobilenet_v2
from ..lvis_v1.mask_rcnn_r50_fpn_seesaw_norm_mask_rfs_2x import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
    tta,
)

model.backbone.bottom_up = _mobilenet_v2
train.init_checkpoint = "torchvision://MobileNet_V2_Weights.IMAGENET1K_V1"
