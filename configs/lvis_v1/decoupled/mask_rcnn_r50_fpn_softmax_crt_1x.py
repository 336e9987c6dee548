"""Classifier re-training (cRT) after softmax with random sampling: class-balanced, 1x.

No published results of this setting. Not yet run with this code.
"""

from ...common.data.sampling import class_balanced as _class_balanced
from ...common.heads.decoupled import decoupled_rcnn as _decoupled
from ...common.schedule import multi_step_1x as lr_multiplier
from .mask_rcnn_r50_fpn_softmax_random_2x import dataloader, model, optimizer, train, tta

model.update(_decoupled)
dataloader.train.sampling = _class_balanced
train.epochs = 12
train.init_checkpoint = (
    "output/lvis_v1/decoupled/mask_rcnn_r50_fpn_softmax_random_2x/model_final.pth"
)
