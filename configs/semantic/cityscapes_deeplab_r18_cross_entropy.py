"""DeepLab v3+ on ResNet-18, Cityscapes, cross-entropy: the authors' settings.

python train_net.py --config-file configs/semantic/cityscapes_deeplab_r18_cross_entropy.py
"""

from ..common.data.cityscapes import dataloader
from ..common.models.deeplab_v3_plus_r18 import model
from ..common.optim import adam as optimizer
from ..common.schedule import constant as lr_multiplier
from ..common.train import train

optimizer.lr = 1e-4
train.init_checkpoint = "torchvision://ResNet18_Weights.IMAGENET1K_V1"
train.epochs = None
train.max_iter = 90_000
train.eval_period = 5000
train.reference_world_size = 1
train.output_dir = "output/semantic/cityscapes_deeplab_r18_cross_entropy"
