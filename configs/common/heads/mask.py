"""Mask heads: parts for ``model.roi_heads.mask_head``."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec

from d2_seesaw.layers import mask_predictor, normed_mask_predictor
from d2_seesaw.modeling.roi_heads import MaskHeadWithPredictor


def _mask_head(predictor, num_classes="${..num_classes}"):
    return L(MaskHeadWithPredictor)(
        input_shape=L(ShapeSpec)(channels=256, width=14, height=14),
        num_classes=num_classes,
        conv_dims=[256, 256, 256, 256, 256],
        predictor=predictor,
    )


def _three_mask_heads(predictor):
    # num_classes is one level further up, because the head is in a list.
    return [_mask_head(predictor, "${...num_classes}") for _ in range(3)]


mask_head = _mask_head(L(mask_predictor)())
norm_mask_predictor = L(normed_mask_predictor)(temperature=20.0)
norm_mask_head = _mask_head(norm_mask_predictor)

# For a cascade: one per stage.
mask_heads = _three_mask_heads(L(mask_predictor)())
norm_mask_heads = _three_mask_heads(norm_mask_predictor)
