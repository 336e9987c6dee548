"""Cascade Mask R-CNN with Swin-B, Seesaw Loss, repeat factor sampling, 50 epochs.

The recipe of cascade_mask_rcnn_swin_b_federated_50ep.py with another loss and classifier. No
published results: none is known of Seesaw Loss in this recipe. Not yet run with this code.
"""

from ..common.recipes.swin_50ep import dataloader, lr_multiplier, model, optimizer, train, tta
from ..common.recipes.swin_50ep import seesaw as _loss

for _predictor in model.roi_heads.box_predictors:
    _predictor.update(_loss)
