"""Training of Recall Loss's authors: Adam without a schedule, batches of 6, on one GPU.

Their code loads ImageNet's ResNet-18 where names and shapes are equal: the stem, and of each block
the two first norms and the 3 x 3 convolution. This is what a partial checkpoint does here.
"""

from ..models.deeplab_v3_plus_recall import model
from ..optim import adam as optimizer
from ..schedule import constant as lr_multiplier
from ..train import train

train.init_checkpoint = "torchvision://ResNet18_Weights.IMAGENET1K_V1"
train.allow_partial_checkpoint = True
train.epochs = None
train.eval_period = 5000
train.best_checkpoint.metric = "sem_seg/mIoU"  # the one that their code saves and tests
train.reference_world_size = 1
