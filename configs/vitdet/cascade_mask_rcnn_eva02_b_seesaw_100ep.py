"""Cascade Mask R-CNN with timm's EVA-02-B, Seesaw Loss, repeat factor sampling, 100 epochs.

The recipe of cascade_mask_rcnn_vit_b_seesaw_100ep.py with another backbone. No published
results: the detectors of EVA-02's authors have windows in most blocks. Not yet run with this code.
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
optimizer.params.lr_factor_func.num_layers = 12
train.init_checkpoint = ""
