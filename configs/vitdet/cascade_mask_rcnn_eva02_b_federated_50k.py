"""Cascade Mask R-CNN with timm's EVA-02-B, federated loss, repeat factor sampling, 50,000 steps.

Steps, batch, learning rate and warm-up of EVA-02-B's authors; the rest as in
cascade_mask_rcnn_vit_b_federated_100ep.py. No published results: the backbone of the authors'
detector (mask AP 41.4) has windows in eight of its blocks. Not yet run with this code.
"""

from ..common.backbones.eva import eva02_base as _eva02_base
from .cascade_mask_rcnn_vit_b_federated_100ep import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
    tta,
)

model.update(_eva02_base)
model.backbone.net.pretrained = True
dataloader.train.total_batch_size = 128
optimizer.lr = 1e-4
optimizer.params.lr_factor_func.num_layers = 12
lr_multiplier.update(milestones=[8, 9, 10], warmup_iters=1000)
train.update(max_iter=50000, eval_period=2500, init_checkpoint="")
