"""Mask R-CNN R101-FPN, Seesaw Loss, normalized masks, random sampling, 2x.

Paper, table 1: mask AP 27.1, APr 18.7, APc 26.3, APf 31.7, box AP 27.4. mmdet's model zoo: mask AP
27.3, box AP 27.2. Not yet run with this code.
"""

from .mask_rcnn_r50_fpn_seesaw_norm_mask_random_2x import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
    tta,
)

model.backbone.bottom_up.stages.depth = 101
train.init_checkpoint = "torchvision://ResNet101_Weights.IMAGENET1K_V1"
