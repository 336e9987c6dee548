"""Training of Detectron2's ViTDet project on LVIS v1: Swin-B, 50 epochs, 64 GPUs.

As ViT-B, with half the steps, half the learning rate and no layer decay. Weights of Swin's authors,
from ImageNet-22K.
"""

from ..models.cascade_mask_rcnn_swin import federated, model, seesaw
from ..optim import adamw as optimizer
from .vitdet_100ep import dataloader, lr_multiplier, train, tta

train.max_iter //= 2
train.init_checkpoint = "detectron2://ImageNetPretrained/swin/swin_base_patch4_window7_224_22k.pth"
lr_multiplier.milestones = [138889 // 2, 150463 // 2, 156250 // 2]

optimizer.lr = 1e-4
optimizer.weight_decay = 0.05
optimizer.params.overrides = dict(relative_position_bias_table=dict(weight_decay=0.0))
