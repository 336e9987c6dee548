"""Cascade Mask R-CNN with Swin-B, federated loss, repeat factor sampling, 50 epochs.

Detectron2's projects/ViTDet/configs/LVIS/cascade_mask_rcnn_swin_b_in21k_50ep.py. Detectron2's model
zoo: mask AP 39.6, box AP 44.0. Not yet run with this code.
"""

from ..common.recipes.swin_50ep import dataloader, lr_multiplier, model, optimizer, train, tta
from ..common.recipes.swin_50ep import federated as _loss

for _predictor in model.roi_heads.box_predictors:
    _predictor.update(_loss)
