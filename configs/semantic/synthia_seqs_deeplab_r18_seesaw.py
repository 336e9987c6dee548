"""DeepLab v3+ on ResNet-18, SYNTHIA sequence 5 in summer, Seesaw Loss.

The training settings follow Recall Loss's authors. No published results for Seesaw Loss with
them.
"""

from ..common.heads.pixel_loss import seesaw as _loss
from .synthia_seqs_deeplab_r18_cross_entropy import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
)

model.sem_seg_head.loss = _loss
