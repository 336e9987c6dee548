"""DeepLab v3+ on ResNet-18, Cityscapes, inverse-frequency weights.

The training settings follow Recall Loss's authors. No published results for inverse-frequency
weights with them.
"""

from ..common.heads.pixel_loss import inverse_frequency as _loss
from .cityscapes_deeplab_r18_cross_entropy import dataloader, lr_multiplier, model, optimizer, train

model.sem_seg_head.loss = _loss
