"""Layers for long-tailed recognition. Pure torch: usable without Detectron2."""

from d2_seesaw.layers.classifier import (
    LayerFactory,
    linear_classifier,
    mask_predictor,
    normed_linear_classifier,
    normed_mask_predictor,
)
from d2_seesaw.layers.normed import NormedConv2d, NormedLinear
from d2_seesaw.layers.offset_pool import roi_align_with_offsets
from d2_seesaw.layers.one_channel import is_pointwise, one_channel

__all__ = [
    "LayerFactory",
    "NormedConv2d",
    "NormedLinear",
    "is_pointwise",
    "linear_classifier",
    "mask_predictor",
    "normed_linear_classifier",
    "normed_mask_predictor",
    "one_channel",
    "roi_align_with_offsets",
]
