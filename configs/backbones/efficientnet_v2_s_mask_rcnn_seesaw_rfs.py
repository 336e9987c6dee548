"""Mask R-CNN with torchvision's EfficientNetV2-S, Seesaw Loss, repeat factors, LVIS v1, 24 epochs.

No published results: the recipe is our own.
"""

from ..common.backbones.torchvision import efficientnet_v2_s as _efficientnet_v2_s
from ..lvis_v1.mask_rcnn_r50_fpn_seesaw_norm_mask_rfs_2x import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
    tta,
)

model.backbone.bottom_up = _efficientnet_v2_s
train.init_checkpoint = "torchvision://EfficientNet_V2_S_Weights.IMAGENET1K_V1"
