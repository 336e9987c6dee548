"""DeepLab v3+ on ResNet-50, Cityscapes, cross-entropy: 90,000 steps of 16 crops, for 8 GPUs.

python train_net.py --config-file configs/semantic/cityscapes_deeplab_r50_cross_entropy.py
"""

from ..common.data.cityscapes import dataloader
from ..common.models.deeplab_v3_plus_r50 import model
from ..common.optim import sgd as optimizer
from ..common.schedule import polynomial as lr_multiplier
from ..common.train import train

dataloader.train.total_batch_size = 16
optimizer.lr = 0.01
train.init_checkpoint = "torchvision://ResNet50_Weights.IMAGENET1K_V1"
train.epochs = None
train.max_iter = 90_000
train.eval_period = 5000
train.output_dir = "output/semantic/cityscapes_deeplab_r50_cross_entropy"
