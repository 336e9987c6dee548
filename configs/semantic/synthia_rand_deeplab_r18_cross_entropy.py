"""DeepLab v3+ on ResNet-18, SYNTHIA-RAND-CITYSCAPES, cross-entropy.

python train_net.py --config-file configs/semantic/synthia_rand_deeplab_r18_cross_entropy.py
"""

from ..common.data.synthia_rand import dataloader
from ..common.models.deeplab_v3_plus_r18 import model
from ..common.optim import adam as optimizer
from ..common.schedule import constant as lr_multiplier
from ..common.train import train

model.sem_seg_head.num_classes = 16
optimizer.lr = 1e-4
train.init_checkpoint = "torchvision://ResNet18_Weights.IMAGENET1K_V1"
train.epochs = None
train.max_iter = 90_000
train.eval_period = 5000
train.reference_world_size = 1
train.output_dir = "output/semantic/synthia_rand_deeplab_r18_cross_entropy"
