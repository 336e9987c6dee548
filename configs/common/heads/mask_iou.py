"""Mask heads with their own scores (Mask Scoring): parts for ``model.roi_heads.mask_head``."""

from detectron2.config import LazyCall as L

from d2_seesaw.layers import mask_predictor, normed_mask_predictor
from d2_seesaw.modeling.roi_heads import MaskIoUHead, ScoredMaskHead

from .mask import _mask_head


def _scored(predictor, num_classes="${...num_classes}"):
    return L(ScoredMaskHead)(
        mask_head=_mask_head(predictor, num_classes),
        iou_head=L(MaskIoUHead)(
            input_shape="${..mask_head.input_shape}",
            num_classes=num_classes,
            conv_dims=[256, 256, 256, 256],
            fc_dims=[1024, 1024],
            loss_weight=1.0,
        ),
        mask_threshold=0.0,
    )


def _three_scored(predictor):
    # num_classes is one level further up, because the head is in a list.
    return [_scored(predictor, "${....num_classes}") for _ in range(3)]


scored_mask_head = _scored(L(mask_predictor)())
scored_norm_mask_head = _scored(L(normed_mask_predictor)(temperature=20.0))

# For a cascade: one per stage.
scored_mask_heads = _three_scored(L(mask_predictor)())
scored_norm_mask_heads = _three_scored(L(normed_mask_predictor)(temperature=20.0))
