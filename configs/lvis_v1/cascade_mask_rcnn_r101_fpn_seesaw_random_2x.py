"""Cascade Mask R-CNN R101-FPN, Seesaw Loss, random sampling, 2x.

Paper, table 1: mask AP 29.0, APr 21.1, APc 28.6, APf 33.0, box AP 32.8. mmdet's model zoo: mask AP
29.2, box AP 33.1. Not yet run with this code.
"""

from ..common.heads.classification import seesaw as _seesaw
from ..common.recipes.cascade_2x import dataloader, lr_multiplier, model, optimizer, train, tta

for _predictor in model.roi_heads.box_predictors:
    _predictor.update(_seesaw)
