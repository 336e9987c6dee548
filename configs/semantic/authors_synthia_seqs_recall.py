"""SYNTHIA sequence 5 with the network and the training of Recall Loss's authors, Recall Loss.

Paper (abstract): 9 % higher mean accuracy, relative, than cross-entropy at a competitive mIoU,
on a random split that cannot be repeated. Not yet run with this code.
"""

from ..common.heads.pixel_loss import recall as _loss
from .authors_synthia_seqs_cross_entropy import dataloader, lr_multiplier, model, optimizer, train

model.sem_seg_head.loss = _loss
model.sem_seg_head.loss.update(reduction="ref", sync=True)
