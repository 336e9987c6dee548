"""Cascade Mask R-CNN with timm's EVA-02-B, Seesaw Loss, repeat factor sampling, 50,000 steps.

The recipe of cascade_mask_rcnn_eva02_b_federated_50k.py with another loss and classifier. No
published results: none is known of Seesaw Loss in this recipe. Not yet run with this code.
"""

from ..common.backbones.eva import eva02_base as _eva02_base
from .cascade_mask_rcnn_vit_b_seesaw_100ep import (
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
