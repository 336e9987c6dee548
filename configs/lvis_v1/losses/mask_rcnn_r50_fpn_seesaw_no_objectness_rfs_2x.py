"""Mask R-CNN R50-FPN, Seesaw Loss with background in its softmax, repeat factor sampling, 2x.

Paper, table 8: mask AP 25.3, APr 16.0, APc 25.1, APf 29.4, box AP 26.5. The paper does not say how
background is weighted; docs/losses.md says how it is here. Not yet run with this code.
"""

from ...common.heads.classification import seesaw_no_objectness as _loss
from ..mask_rcnn_r50_fpn_softmax_rfs_2x import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
    tta,
)

model.roi_heads.box_predictor.update(_loss)
