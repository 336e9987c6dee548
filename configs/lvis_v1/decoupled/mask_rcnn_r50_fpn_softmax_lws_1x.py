"""Learnable weight scaling (LWS) after softmax with random sampling: class-balanced, 1x.

No published results of this setting. Not yet run with this code.
"""

from .mask_rcnn_r50_fpn_softmax_crt_1x import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
    tta,
)

model.init = "scale"
