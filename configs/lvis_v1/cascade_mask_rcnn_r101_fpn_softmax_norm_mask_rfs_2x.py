r"""Cascade Mask R-CNN R101-FPN, softmax, norm mask, repeat factor sampling, 2x.

    python train_net.py --num-gpus 8 \
        --config-file configs/lvis_v1/cascade_mask_rcnn_r101_fpn_softmax_norm_mask_rfs_2x.py

No published number. Ours is not yet run.
"""

from ..common.data.lvis_v1 import dataloader
from ..common.data.sampling import repeat_factor as _repeat_factor
from ..common.heads.mask import norm_mask_heads as _norm_mask_heads
from ..common.models.cascade_mask_rcnn_r50_fpn import model
from ..common.optim import sgd as optimizer
from ..common.schedule import multi_step_2x as lr_multiplier
from ..common.train import train
from ..common.tta import test_size_multiples as tta

model.roi_heads.mask_head = _norm_mask_heads
dataloader.train.sampling = _repeat_factor
model.backbone.bottom_up.stages.depth = 101
train.output_dir = "output/cascade_mask_rcnn_r101_fpn_softmax_norm_mask_rfs_2x"
train.init_checkpoint = "torchvision://ResNet101_Weights.IMAGENET1K_V1"
