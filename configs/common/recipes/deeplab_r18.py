"""DeepLab v3+ on ResNet-18 as Recall Loss's authors train it: Adam, 90,000 steps, one GPU."""

from ..models.deeplab_v3_plus_r18 import model
from ..optim import adam as optimizer
from ..schedule import constant as lr_multiplier
from ..train import train

optimizer.lr = 1e-4
train.init_checkpoint = "torchvision://ResNet18_Weights.IMAGENET1K_V1"
train.epochs = None
train.max_iter = 90_000
train.eval_period = 5000
train.reference_world_size = 1
