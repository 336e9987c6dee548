"""Mask R-CNN R50-FPN, Equalization Loss v2, repeat factor sampling, 2x.

No published results of this setting. The authors' repository: mask AP 23.7, APr 14.9, APc 22.8, APf
28.6, box AP 24.2 with random sampling and 12 epochs. Not yet run with this code.
"""

from ...common.heads.classification import equalization_v2 as _loss
from ..mask_rcnn_r50_fpn_softmax_rfs_2x import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
    tta,
)

model.roi_heads.box_predictor.update(_loss)
