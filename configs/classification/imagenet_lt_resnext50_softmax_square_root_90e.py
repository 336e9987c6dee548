"""ResNeXt-50 on ImageNet-LT, softmax cross-entropy, square-root sampling, 90 epochs.

Kang et al., README of their code: accuracy 46.8, many 64.3, medium 41.2, few 17.0. Not yet run with
this code.
"""

from ..common.data.sampling import square_root as _square_root
from ..common.recipes.imagenet_lt_90e import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.sampling = _square_root
