"""ResNeXt-50 on ImageNet-LT for 90 epochs: SGD, batches of 512, cosine without warm-up, softmax."""

from detectron2.config import LazyCall as L
from fvcore.common.param_scheduler import CosineParamScheduler

from ..data.imagenet_lt import dataloader
from ..models.resnext50_classifier import model
from ..optim import sgd as optimizer
from ..train import train

optimizer.lr = 0.2
optimizer.weight_decay = 5e-4
lr_multiplier = L(CosineParamScheduler)(start_value=1.0, end_value=0.0)

train.epochs = 90
train.eval_period = 1130  # 5 epochs
train.best_checkpoint.metric = "classification/accuracy"
