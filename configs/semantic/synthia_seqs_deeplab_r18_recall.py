"""DeepLab v3+ on ResNet-18, SYNTHIA sequence 5 in summer, Recall Loss.

No published results: the recipe is our own. authors_synthia_seqs_recall trains as the authors.
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
