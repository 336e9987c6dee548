"""DeepLab v3+ on ResNet-18, SYNTHIA-RAND-CITYSCAPES, Recall Loss.

python train_net.py --config-file configs/semantic/synthia_rand_deeplab_r18_recall.py
"""

from ..common.heads.pixel_loss import recall as _loss
from .synthia_rand_deeplab_r18_cross_entropy import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
)

model.sem_seg_head.loss = _loss
train.output_dir = "output/semantic/synthia_rand_deeplab_r18_recall"
