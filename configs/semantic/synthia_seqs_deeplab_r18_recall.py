"""DeepLab v3+ on ResNet-18, SYNTHIA sequence 5 in summer, Recall Loss.

The training settings follow Recall Loss's authors. Paper (abstract): 9 % higher mean
accuracy, relative, than cross-entropy at a competitive mIoU. Not yet run with this code.
"""

from ..common.heads.pixel_loss import recall as _loss
from .synthia_seqs_deeplab_r18_cross_entropy import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
)

model.sem_seg_head.loss = _loss
