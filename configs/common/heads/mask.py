"""Mask predictors: parts for ``model.roi_heads.mask_head``."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec

from d2_seesaw.layers import normed_mask_predictor
from d2_seesaw.roi_heads import MaskHeadWithPredictor

norm_mask_head = L(MaskHeadWithPredictor)(
    input_shape=L(ShapeSpec)(channels=256, width=14, height=14),
    num_classes="${..num_classes}",
    conv_dims=[256, 256, 256, 256, 256],
    predictor=L(normed_mask_predictor)(temperature=20.0),
)
