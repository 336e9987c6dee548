"""Cascade Mask R-CNN R101-FPN, Seesaw Loss, repeat factor sampling, 2x.

Paper, table 1: mask AP 29.3, APr 21.7, APc 29.2, APf 32.8, box AP 32.8. mmdet's model zoo: mask AP
29.3, box AP 30.0, which contradicts the paper and looks like a typo. Not yet run with this
code.
"""

from ..common.data.sampling import repeat_factor as _repeat_factor
from ..common.heads.classification import seesaw as _seesaw
from ..common.recipes.cascade_2x import dataloader, lr_multiplier, model, optimizer, train, tta

for _predictor in model.roi_heads.box_predictors:
    _predictor.update(_seesaw)
dataloader.train.sampling = _repeat_factor
