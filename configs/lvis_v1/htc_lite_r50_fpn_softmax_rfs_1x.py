"""HTC-Lite R50-FPN, softmax cross-entropy, repeat factor sampling, 1x.

Paper, table 13: mask AP 25.5, APr 15.0, APc 25.4, APf 30.3, box AP 28.0.
For settings that the paper does not give, see configs/common/models/htc_lite_r50_fpn.py. Not yet
run with this code.
"""

from ..common.conventions import train_as_mmdet as _train_as_mmdet
from ..common.data.lvis_v1 import dataloader
from ..common.data.sampling import repeat_factor as _repeat_factor
from ..common.models.htc_lite_r50_fpn import model
from ..common.optim import sgd as optimizer
from ..common.schedule import multi_step_1x as lr_multiplier
from ..common.train import train
from ..common.tta import test_size_multiples as tta

_train_as_mmdet(model, dataloader)
dataloader.train.sampling = _repeat_factor
train.epochs = 12
train.init_checkpoint = "torchvision://ResNet50_Weights.IMAGENET1K_V1"
