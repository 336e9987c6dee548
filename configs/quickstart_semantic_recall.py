"""As configs/quickstart_semantic_cross_entropy.py, with Recall Loss."""

from .common.heads.pixel_loss import recall as _loss
from .quickstart_semantic_cross_entropy import dataloader, lr_multiplier, model, optimizer, train

model.sem_seg_head.loss = _loss
train.output_dir = "output/quickstart_semantic_recall"
