"""Cityscapes with the network and the training of Recall Loss's authors, Recall Loss.

The loss is divided by the number of all pixels, as in their code, which itself fails on Cityscapes:
it indexes the class weights by the ignored label 255. No published results: the paper's abstract
compares losses on SYNTHIA only.
"""

from ..common.heads.pixel_loss import recall as _loss
from .authors_cityscapes_cross_entropy import dataloader, lr_multiplier, model, optimizer, train

model.sem_seg_head.loss = _loss
model.sem_seg_head.loss.update(reduction="ref", sync=True)
