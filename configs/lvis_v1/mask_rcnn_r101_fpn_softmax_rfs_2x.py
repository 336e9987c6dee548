"""Mask R-CNN R101-FPN, softmax cross-entropy, repeat factor sampling, 2x.

Paper, table 1: mask AP 25.5, APr 16.6, APc 24.5, APf 30.6, box AP 26.6. Not yet run with this code.
"""

from .mask_rcnn_r50_fpn_softmax_rfs_2x import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
    tta,
)

model.backbone.bottom_up.stages.depth = 101
train.init_checkpoint = "torchvision://ResNet101_Weights.IMAGENET1K_V1"
