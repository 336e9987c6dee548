"""ResNeXt-50 on ImageNet-LT, softmax cross-entropy, 90 epochs.

    d2-seesaw train --config-file classification/imagenet_lt_resnext50_softmax_90e --num-gpus 8

Paper, table 10: accuracy 44.4, many 65.9, medium 37.5, few 7.7, after Kang et al. (ICLR 2020). Not
yet run with this code.
"""

from ..common.recipes.imagenet_lt_90e import dataloader, lr_multiplier, model, optimizer, train
