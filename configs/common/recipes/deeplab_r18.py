"""DeepLab v3+ on torchvision's ResNet-18: Adam without a schedule, 90,000 steps, one GPU.

Optimizer, steps and batch size are those of Recall Loss's authors; the network is not.
"""

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
