"""configs/quickstart/semantic_cross_entropy.py with Recall Loss.

No published results: the data are generated. docs/semantic.md lists measured results.
"""

from ..common.heads.pixel_loss import recall as _loss
from .semantic_cross_entropy import dataloader, lr_multiplier, model, optimizer, train

model.sem_seg_head.loss = _loss
