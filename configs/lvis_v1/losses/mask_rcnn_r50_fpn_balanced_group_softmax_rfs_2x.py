"""Mask R-CNN R50-FPN, balanced group softmax (BAGS), repeat factor sampling, 2x.

Paper, table 3: mask AP 24.7, in the experiments of Seesaw Loss's authors. BAGS's own authors train
on LVIS v0.5, and the classifier alone in a second phase. Not yet run with this code.
"""

from ...common.heads.classification import balanced_group_softmax as _loss
from ..mask_rcnn_r50_fpn_softmax_rfs_2x import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
    tta,
)

model.roi_heads.box_predictor.update(_loss)
