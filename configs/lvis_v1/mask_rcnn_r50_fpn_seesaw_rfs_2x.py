"""Mask R-CNN R50-FPN, Seesaw Loss, repeat factor sampling, 2x.

Paper, table 2: mask AP 26.4, APr 19.6, APc 26.1, APf 29.8, box AP 27.4. mmdet's model zoo: mask AP
26.4, box AP 27.6. Not yet run with this code.
"""

from ..common.heads.classification import seesaw as _seesaw
from .mask_rcnn_r50_fpn_softmax_rfs_2x import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
    tta,
)

model.roi_heads.box_predictor.update(_seesaw)
