"""Hybrid Task Cascade R50-FPN without its semantic branch, repeat factor sampling, 1x.

Paper, table 13: mask AP 24.8, APr 14.5, APc 24.1, APf 30.2, box AP 27.0; HTC-Lite has 25.5 and
28.0. Softmax cross-entropy. Not yet run with this code.
"""

from ..common.conventions import train_as_mmdet as _train_as_mmdet
from ..common.data.lvis_v1 import dataloader
from ..common.data.sampling import repeat_factor as _repeat_factor
from ..common.models.htc_r50_fpn import model
from ..common.optim import sgd as optimizer
from ..common.schedule import multi_step_1x as lr_multiplier
from ..common.train import train
from ..common.tta import test_size_multiples as tta

_train_as_mmdet(model, dataloader)
dataloader.train.sampling = _repeat_factor
train.epochs = 12
train.init_checkpoint = "torchvision://ResNet50_Weights.IMAGENET1K_V1"
