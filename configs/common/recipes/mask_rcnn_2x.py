"""Mask R-CNN R50-FPN on LVIS v1 for 24 epochs: softmax, random sampling."""

from ..conventions import train_as_mmdet as _train_as_mmdet
from ..data.lvis_v1 import dataloader
from ..models.mask_rcnn_r50_fpn import model
from ..optim import sgd as optimizer
from ..schedule import multi_step_2x as lr_multiplier
from ..train import train
from ..tta import test_size_multiples as tta

_train_as_mmdet(model, dataloader)
train.init_checkpoint = "torchvision://ResNet50_Weights.IMAGENET1K_V1"
