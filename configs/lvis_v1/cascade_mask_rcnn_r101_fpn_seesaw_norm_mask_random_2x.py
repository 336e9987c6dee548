r"""Cascade Mask R-CNN R101-FPN, Seesaw Loss, normalised mask predictors, random sampling, 2x.

    python train_net.py --num-gpus 8 \
        --config-file configs/lvis_v1/cascade_mask_rcnn_r101_fpn_seesaw_norm_mask_random_2x.py

Paper (table 1): mask AP 29.6, APr 20.3, APc 29.3, APf 34.0, box AP 32.7. mmdet's model
zoo: mask AP 30.0, box AP 33.0. Ours is not yet run.
"""

from ..common.data.lvis_v1 import dataloader
from ..common.heads.classification import seesaw as _seesaw
from ..common.heads.mask import norm_mask_heads as _norm_mask_heads
from ..common.models.cascade_mask_rcnn_r50_fpn import model
from ..common.optim import sgd as optimizer
from ..common.schedule import multi_step_2x as lr_multiplier
from ..common.train import train
from ..common.tta import test_size_multiples as tta

for _predictor in model.roi_heads.box_predictors:
    _predictor.update(_seesaw)
model.roi_heads.mask_head = _norm_mask_heads
model.backbone.bottom_up.stages.depth = 101
train.output_dir = "output/cascade_mask_rcnn_r101_fpn_seesaw_norm_mask_random_2x"
train.init_checkpoint = "torchvision://ResNet101_Weights.IMAGENET1K_V1"
