"""Cascade Mask R-CNN R101-FPN, Seesaw Loss, normalized masks, random sampling, 2x.

Paper, table 1: mask AP 29.6, APr 20.3, APc 29.3, APf 34.0, box AP 32.7. mmdet's model zoo: mask AP
30.0, box AP 33.0. Not yet run with this code.
"""

from ..common.heads.classification import seesaw as _seesaw
from ..common.heads.mask import norm_mask_predictor as _norm_mask_predictor
from ..common.recipes.cascade_2x import dataloader, lr_multiplier, model, optimizer, train, tta

for _predictor in model.roi_heads.box_predictors:
    _predictor.update(_seesaw)
for _head in model.roi_heads.mask_head:
    _head.predictor = _norm_mask_predictor
