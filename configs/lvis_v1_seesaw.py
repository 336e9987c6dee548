"""Flagship recipe: Mask R-CNN R50-FPN with Seesaw Loss and normalized mask predictor on LVIS v1.

    python train_net.py --config-file configs/lvis_v1_seesaw.py --num-gpus 8

Repeat factor sampling, 24 epochs of the repeated data. mmdet's model zoo: mask AP 26.8, box AP
27.6. Not yet run with this code.
"""

from .common.conventions import train_as_mmdet as _train_as_mmdet
from .common.data.lvis_v1 import dataloader
from .common.data.sampling import repeat_factor as _repeat_factor
from .common.heads.classification import seesaw as _seesaw
from .common.heads.mask import norm_mask_head as _norm_mask_head
from .common.models.mask_rcnn_r50_fpn import model
from .common.optim import sgd as optimizer
from .common.schedule import multi_step_2x as lr_multiplier
from .common.train import train
from .common.tta import test_size_multiples as tta

_train_as_mmdet(model, dataloader)
model.roi_heads.box_predictor.update(_seesaw)
model.roi_heads.mask_head = _norm_mask_head
dataloader.train.sampling = _repeat_factor
train.init_checkpoint = "torchvision://ResNet50_Weights.IMAGENET1K_V1"
