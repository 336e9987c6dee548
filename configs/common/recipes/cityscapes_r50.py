"""Cityscapes for ResNet-50 models: SGD, 90,000 steps of 16 crops, 8 GPUs."""

from ..data.cityscapes import dataloader
from ..optim import sgd as optimizer
from ..schedule import polynomial as lr_multiplier
from ..train import train

dataloader.train.total_batch_size = 16
optimizer.lr = 0.01
train.init_checkpoint = "torchvision://ResNet50_Weights.IMAGENET1K_V1"
train.epochs = None
train.max_iter = 90_000
train.eval_period = 5000
