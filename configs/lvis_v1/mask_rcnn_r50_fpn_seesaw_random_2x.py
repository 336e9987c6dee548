"""Mask R-CNN R50-FPN, Seesaw Loss, random sampling, 2x.

mmdet's model zoo: mask AP 25.0, box AP 25.6. Not yet run with this code.
"""

from ..common.heads.classification import seesaw as _seesaw
from ..common.recipes.mask_rcnn_2x import dataloader, lr_multiplier, model, optimizer, train, tta

model.roi_heads.box_predictor.update(_seesaw)
