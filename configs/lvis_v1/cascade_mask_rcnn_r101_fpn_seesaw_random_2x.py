r"""Cascade Mask R-CNN R101-FPN, Seesaw Loss, random sampling, 2x.

    python train_net.py --num-gpus 8 \
        --config-file configs/lvis_v1/cascade_mask_rcnn_r101_fpn_seesaw_random_2x.py

Paper (table 1): mask AP 29.0, APr 21.1, APc 28.6, APf 33.0, box AP 32.8. mmdet's model
zoo: mask AP 29.2, box AP 33.1. Ours is not yet run.
"""

from ..common.data.lvis_v1 import dataloader
from ..common.heads.classification import seesaw as _seesaw
from ..common.models.cascade_mask_rcnn_r50_fpn import model
from ..common.optim import sgd as optimizer
from ..common.schedule import multi_step_2x as lr_multiplier
from ..common.train import train
from ..common.tta import test_size_multiples as tta

for _predictor in model.roi_heads.box_predictors:
    _predictor.update(_seesaw)
model.backbone.bottom_up.stages.depth = 101
train.output_dir = "output/cascade_mask_rcnn_r101_fpn_seesaw_random_2x"
train.init_checkpoint = "torchvision://ResNet101_Weights.IMAGENET1K_V1"
