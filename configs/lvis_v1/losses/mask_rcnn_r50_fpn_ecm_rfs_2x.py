"""Mask R-CNN R50-FPN, Effective Class-Margin Loss, normalized masks, repeat factor sampling, 2x.

The authors' repository: mask AP 27.5, box AP 27.9. The warm-up, the milestones and the limit of the
gradients are the authors'. Not yet run with this code.
"""

from ...common.heads.classification import ecm as _loss
from ...common.heads.mask import norm_mask_head as _norm_mask_head
from ..mask_rcnn_r50_fpn_softmax_rfs_2x import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
    tta,
)

model.roi_heads.box_predictor.update(_loss)
model.roi_heads.mask_head = _norm_mask_head
lr_multiplier.update(milestones=[20, 22, 24], warmup_iters=10000, warmup_factor=1e-4)
train.clip_grad.max_norm = 5.0
