"""Learnable weight scaling (LWS) after imagenet_lt_resnext50_softmax_90e: class-balanced, 5 epochs.

Paper, table 10: accuracy 49.9, many 60.2, medium 47.2, few 30.3, after Kang et al. (ICLR 2020),
whose code has these options. Not yet run with this code.
"""

from .imagenet_lt_resnext50_softmax_crt_10e import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
)

model.init = "scale"
train.epochs = 5
