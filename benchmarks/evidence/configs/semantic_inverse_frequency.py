"""semantic.py with the loss of configs/common/heads/pixel_loss.py named inverse_frequency."""

from ....configs.common.heads.pixel_loss import inverse_frequency as _loss
from .semantic import dataloader, lr_multiplier, model, optimizer, train

model.sem_seg_head.loss = _loss
