r"""Mask R-CNN R50-FPN, softmax cross-entropy, random sampling, 2x.

    python train_net.py --num-gpus 8 \
        --config-file configs/lvis_v1/mask_rcnn_r50_fpn_softmax_random_2x.py

No published number. Ours is not yet run.
"""

from ..common.data.lvis_v1 import dataloader
from ..common.models.mask_rcnn_r50_fpn import model
from ..common.optim import sgd as optimizer
from ..common.schedule import multi_step_2x as lr_multiplier
from ..common.train import train
from ..common.tta import test_size_multiples as tta

train.output_dir = "output/mask_rcnn_r50_fpn_softmax_random_2x"
train.init_checkpoint = "torchvision://ResNet50_Weights.IMAGENET1K_V1"
