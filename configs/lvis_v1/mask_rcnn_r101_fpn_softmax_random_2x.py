"""Mask R-CNN R101-FPN, softmax cross-entropy, random sampling, 2x.

Paper, table 1: mask AP 20.6, APr 0.8, APc 19.3, APf 30.7, box AP 21.7. Not yet run with this code.
"""

from ..common.recipes.mask_rcnn_2x import dataloader, lr_multiplier, model, optimizer, train, tta

model.backbone.bottom_up.stages.depth = 101
train.init_checkpoint = "torchvision://ResNet101_Weights.IMAGENET1K_V1"
