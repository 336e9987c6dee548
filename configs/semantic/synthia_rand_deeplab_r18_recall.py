"""DeepLab v3+ on ResNet-18, SYNTHIA-RAND-CITYSCAPES, Recall Loss.

No published results: the recipe is our own.
"""

from ..common.heads.pixel_loss import recall as _loss
from .synthia_rand_deeplab_r18_cross_entropy import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
)

model.sem_seg_head.loss = _loss
