"""Mask R-CNN R50-FPN, Seesaw Loss, normalized masks, random sampling, 2x.

mmdet's model zoo: mask AP 25.4, box AP 25.6. Not yet run with this code.
"""

from ..common.heads.classification import seesaw as _seesaw
from ..common.heads.mask import norm_mask_head as _norm_mask_head
from ..common.recipes.mask_rcnn_2x import dataloader, lr_multiplier, model, optimizer, train, tta

model.roi_heads.box_predictor.update(_seesaw)
model.roi_heads.mask_head = _norm_mask_head
