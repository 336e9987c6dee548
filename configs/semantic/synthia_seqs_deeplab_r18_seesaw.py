"""DeepLab v3+ on ResNet-18, SYNTHIA sequence 5 in summer, Seesaw Loss: the authors' settings.

python train_net.py --config-file configs/semantic/synthia_seqs_deeplab_r18_seesaw.py
"""

from ..common.heads.pixel_loss import seesaw as _loss
from .synthia_seqs_deeplab_r18_cross_entropy import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
)

model.sem_seg_head.loss = _loss
train.output_dir = "output/semantic/synthia_seqs_deeplab_r18_seesaw"
