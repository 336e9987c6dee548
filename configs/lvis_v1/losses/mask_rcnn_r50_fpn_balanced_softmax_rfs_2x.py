"""Mask R-CNN R50-FPN, Balanced Softmax with objectness, repeat factor sampling, 2x.

No published results of this setting: the authors classify images, and detect on LVIS v0.5 with a
sigmoid for each class. Not yet run with this code.
"""

from ...common.heads.classification import balanced_softmax as _loss
from ..mask_rcnn_r50_fpn_softmax_rfs_2x import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
    tta,
)

model.roi_heads.box_predictor.update(_loss)
