"""Cascade Mask R-CNN R101-FPN, Seesaw Loss, normalized masks, repeat factor sampling, 2x.

Paper, table 1: mask AP 30.1, APr 21.4, APc 30.0, APf 33.9, box AP 32.8. mmdet's model zoo: mask AP
30.1, box AP 32.8. Not yet run with this code.
"""

from ..common.data.sampling import repeat_factor as _repeat_factor
from ..common.heads.classification import seesaw as _seesaw
from ..common.heads.mask import norm_mask_predictor as _norm_mask_predictor
from ..common.recipes.cascade_2x import dataloader, lr_multiplier, model, optimizer, train, tta

for _predictor in model.roi_heads.box_predictors:
    _predictor.update(_seesaw)
for _head in model.roi_heads.mask_head:
    _head.predictor = _norm_mask_predictor
dataloader.train.sampling = _repeat_factor
