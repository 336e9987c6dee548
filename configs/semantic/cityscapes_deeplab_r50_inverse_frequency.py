"""DeepLab v3+ on ResNet-50, Cityscapes, inverse frequency: 90,000 steps of 16 crops, for 8 GPUs.

python train_net.py --config-file configs/semantic/cityscapes_deeplab_r50_inverse_frequency.py
"""

from ..common.heads.pixel_loss import inverse_frequency as _loss
from .cityscapes_deeplab_r50_cross_entropy import dataloader, lr_multiplier, model, optimizer, train

model.sem_seg_head.loss = _loss
train.output_dir = "output/semantic/cityscapes_deeplab_r50_inverse_frequency"
