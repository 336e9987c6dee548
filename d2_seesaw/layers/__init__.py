"""Layers for long-tailed recognition. Pure torch: usable without Detectron2."""

from d2_seesaw.layers.classifier import (
    LayerFactory,
    linear_classifier,
    normed_linear_classifier,
    normed_mask_predictor,
)
from d2_seesaw.layers.normed import NormedConv2d, NormedLinear

__all__ = [
    "LayerFactory",
    "NormedConv2d",
    "NormedLinear",
    "linear_classifier",
    "normed_linear_classifier",
    "normed_mask_predictor",
]
