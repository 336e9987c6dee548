r"""Cascade Mask R-CNN R101-FPN, softmax cross-entropy, repeat factor sampling, 2x.

    python train_net.py --num-gpus 8 \
        --config-file configs/lvis_v1/cascade_mask_rcnn_r101_fpn_softmax_rfs_2x.py

Paper (table 1): mask AP 27.0, APr 16.6, APc 26.7, APf 32.0, box AP 30.3.
Ours is not yet run.
"""

from ..common.data.lvis_v1 import dataloader
from ..common.data.sampling import repeat_factor as _repeat_factor
from ..common.models.cascade_mask_rcnn_r50_fpn import model
from ..common.optim import sgd as optimizer
from ..common.schedule import multi_step_2x as lr_multiplier
from ..common.train import train
from ..common.tta import test_size_multiples as tta

dataloader.train.sampling = _repeat_factor
model.backbone.bottom_up.stages.depth = 101
train.output_dir = "output/cascade_mask_rcnn_r101_fpn_softmax_rfs_2x"
train.init_checkpoint = "torchvision://ResNet101_Weights.IMAGENET1K_V1"
