"""DeepLab v3+ on ResNet-18, Cityscapes, Recall Loss.

No published results: the recipe is our own. authors_cityscapes_* train as Recall Loss's authors.
"""

from ..common.heads.pixel_loss import recall as _loss
from .cityscapes_deeplab_r18_cross_entropy import dataloader, lr_multiplier, model, optimizer, train

model.sem_seg_head.loss = _loss
