"""Cascade Mask R-CNN R101-FPN on LVIS v1 for 24 epochs: softmax, random sampling."""

from ..conventions import train_as_mmdet as _train_as_mmdet
from ..data.lvis_v1 import dataloader
from ..models.cascade_mask_rcnn_r50_fpn import model
from ..optim import sgd as optimizer
from ..schedule import multi_step_2x as lr_multiplier
from ..train import train
from ..tta import test_size_multiples as tta

_train_as_mmdet(model, dataloader)
model.backbone.bottom_up.stages.depth = 101
train.init_checkpoint = "torchvision://ResNet101_Weights.IMAGENET1K_V1"
