"""ResNeXt-50 on ImageNet-LT, softmax, progressively balanced sampling, 90 epochs.

Kang et al., README of their code: accuracy 47.2, many 61.9, medium 43.2, few 19.4. Not yet run with
this code.
"""

from ..common.data.sampling import progressively_balanced as _progressively_balanced
from ..common.recipes.imagenet_lt_90e import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.sampling = _progressively_balanced
