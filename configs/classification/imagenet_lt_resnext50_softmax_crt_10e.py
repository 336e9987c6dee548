"""Classifier re-training (cRT) after imagenet_lt_resnext50_softmax_90e: class-balanced, 10 epochs.

Paper, table 10: accuracy 49.6, many 61.8, medium 46.2, few 27.4, after Kang et al. (ICLR 2020),
whose code has these options. Not yet run with this code.
"""

from ..common.data.sampling import class_balanced as _class_balanced
from ..common.heads.decoupled import decoupled_classifier as _decoupled
from .imagenet_lt_resnext50_softmax_90e import dataloader, lr_multiplier, model, optimizer, train

model.update(_decoupled)
dataloader.train.sampling = _class_balanced
train.epochs = 10
train.eval_period = 226  # 1 epoch
train.init_checkpoint = "output/classification/imagenet_lt_resnext50_softmax_90e/model_final.pth"
