"""Mask R-CNN with Seesaw Loss on a pretrained MobileNetV2, for the evidence: minutes on one core.

The schedule and the sampling are those of configs/quickstart/seesaw.py, with 300 steps. Images are
not resized. A fixed number of samples per bin makes RoIAlign cheaper.
"""

from ....configs.common.heads.classification import seesaw as _seesaw
from ....configs.common.models.mask_rcnn_torchvision_fpn import model
from ....configs.quickstart.seesaw import dataloader, lr_multiplier, optimizer, train

_heads = model.roi_heads
_heads.num_classes = 55
_heads.box_predictor.update(_seesaw)
_heads.box_pooler.sampling_ratio = _heads.mask_pooler.sampling_ratio = 2

train.init_checkpoint = "torchvision://MobileNet_V2_Weights.IMAGENET1K_V1"
train.max_iter = 300
