"""configs/quickstart/semantic_cross_entropy.py with Seesaw Loss.

No published number: the data are generated here. docs/semantic.md has measured ones.
"""

from ..common.heads.pixel_loss import seesaw as _loss
from .semantic_cross_entropy import dataloader, lr_multiplier, model, optimizer, train

model.sem_seg_head.loss = _loss
