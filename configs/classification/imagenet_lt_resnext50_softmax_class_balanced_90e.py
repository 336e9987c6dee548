"""ResNeXt-50 on ImageNet-LT, softmax cross-entropy, class-balanced sampling, 90 epochs.

Kang et al., README of their code: accuracy 45.1, many 61.8, medium 40.1, few 15.5. Not yet run with
this code.
"""

from ..common.data.sampling import class_balanced as _class_balanced
from ..common.recipes.imagenet_lt_90e import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.sampling = _class_balanced
