"""Mask R-CNN with Seesaw Loss on a pretrained MobileNetV2, for the evidence: minutes on one core.

The schedule and the sampling are those of configs/quickstart/seesaw.py. Images are not resized.
"""

from ....configs.common.models.mask_rcnn_torchvision_fpn import model
from ....configs.common.heads.classification import seesaw as _seesaw
from ....configs.quickstart.seesaw import dataloader, lr_multiplier, optimizer, train

model.roi_heads.num_classes = 52
model.roi_heads.box_predictor.update(_seesaw)
train.init_checkpoint = "torchvision://MobileNet_V2_Weights.IMAGENET1K_V1"
train.max_iter = 500
