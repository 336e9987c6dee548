"""Mask R-CNN R50-FPN, softmax cross-entropy with objectness, repeat factor sampling, 2x.

Paper, table 8: mask AP 23.7, APr 13.5, APc 22.8, APf 29.3, box AP 24.7. Not yet run with this code.
"""

from ...common.heads.classification import softmax_objectness as _loss
from ..mask_rcnn_r50_fpn_softmax_rfs_2x import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
    tta,
)

model.roi_heads.box_predictor.update(_loss)
