"""DeepLab v3+ on ResNet-18, Cityscapes, online hard example mining (OHEM).

No published results: the recipe is our own.
"""

from ..common.heads.pixel_loss import ohem as _loss
from .cityscapes_deeplab_r18_cross_entropy import dataloader, lr_multiplier, model, optimizer, train

model.sem_seg_head.loss = _loss
