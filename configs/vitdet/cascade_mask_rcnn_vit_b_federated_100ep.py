"""Cascade Mask R-CNN with ViT-B (ViTDet), federated loss, repeat factor sampling, 100 epochs.

Detectron2's projects/ViTDet/configs/LVIS/cascade_mask_rcnn_vitdet_b_100ep.py. Detectron2's model
zoo: mask AP 38.9, box AP 43.0. Not yet run with this code.
"""

from ..common.recipes.vitdet_100ep import dataloader, lr_multiplier, model, optimizer, train, tta
from ..common.recipes.vitdet_100ep import federated as _loss

for _predictor in model.roi_heads.box_predictors:
    _predictor.update(_loss)
