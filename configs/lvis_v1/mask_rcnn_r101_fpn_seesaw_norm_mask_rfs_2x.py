"""Mask R-CNN R101-FPN, Seesaw Loss, normalized masks, repeat factor sampling, 2x.

Paper, table 1: mask AP 28.1, APr 20.0, APc 28.0, APf 31.8, box AP 28.9. mmdet's model zoo: mask AP
28.2, box AP 28.9. Not yet run with this code.
"""

from .mask_rcnn_r50_fpn_seesaw_norm_mask_rfs_2x import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
    tta,
)

model.backbone.bottom_up.stages.depth = 101
train.init_checkpoint = "torchvision://ResNet101_Weights.IMAGENET1K_V1"
