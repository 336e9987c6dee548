"""ResNeXt-50 on ImageNet-LT, Seesaw Loss (p = 0.8, q = 1) and normalized classifier, 90 epochs.

    d2-seesaw train --config-file classification/imagenet_lt_resnext50_seesaw_90e --num-gpus 8

Paper, table 10: accuracy 50.4, many 67.1, medium 45.2, few 21.4. Not yet run with this code.
"""

from ..common.heads.image_classification import seesaw as _seesaw
from ..common.recipes.imagenet_lt_90e import dataloader, lr_multiplier, model, optimizer, train

model.update(_seesaw)
