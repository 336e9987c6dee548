"""DeepLab v3+ on ResNet-50, Cityscapes, Recall Loss.

No published results: the recipe is our own.
"""

from ..common.heads.pixel_loss import recall as _loss
from .cityscapes_deeplab_r50_cross_entropy import dataloader, lr_multiplier, model, optimizer, train

model.sem_seg_head.loss = _loss
