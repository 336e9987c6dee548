"""Mask R-CNN R101-FPN, Seesaw Loss, random sampling, 2x.

Paper, table 1: mask AP 26.6, APr 18.1, APc 25.8, APf 31.2, box AP 27.4. mmdet's model zoo: mask AP
26.7, box AP 27.4. Not yet run with this code.
"""

from .mask_rcnn_r50_fpn_seesaw_random_2x import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
    tta,
)

model.backbone.bottom_up.stages.depth = 101
train.init_checkpoint = "torchvision://ResNet101_Weights.IMAGENET1K_V1"
