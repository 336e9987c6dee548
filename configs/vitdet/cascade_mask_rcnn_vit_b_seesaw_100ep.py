"""Cascade Mask R-CNN with ViT-B (ViTDet), Seesaw Loss, repeat factor sampling, 100 epochs.

The recipe of cascade_mask_rcnn_vit_b_federated_100ep.py with another loss and classifier. No
published results: none is known of Seesaw Loss in this recipe. Not yet run with this code.
"""

from ..common.recipes.vitdet_100ep import dataloader, lr_multiplier, model, optimizer, train, tta
from ..common.recipes.vitdet_100ep import seesaw as _loss

for _predictor in model.roi_heads.box_predictors:
    _predictor.update(_loss)
