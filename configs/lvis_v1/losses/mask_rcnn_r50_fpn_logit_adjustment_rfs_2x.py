"""Mask R-CNN R50-FPN, logit adjustment with background in the softmax, repeat factor sampling, 2x.

No published results of this setting: the paper classifies images. Not yet run with this code.
"""

from ...common.heads.classification import logit_adjustment as _loss
from ..mask_rcnn_r50_fpn_softmax_rfs_2x import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
    tta,
)

model.roi_heads.box_predictor.update(_loss)
