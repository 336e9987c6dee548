"""Layers for long-tailed recognition. Pure torch: usable without Detectron2."""

from d2_seesaw.layers.activation_checkpoint import activation_checkpoint
from d2_seesaw.layers.classifier import (
    LayerFactory,
    linear_classifier,
    mask_predictor,
    normed_linear_classifier,
    normed_mask_predictor,
)
from d2_seesaw.layers.normalisation import (
    NormFactory,
    SyncBatchNorm2d,
    layer_norm,
    sync_batch_norm,
)
from d2_seesaw.layers.normed import NormedConv2d, NormedLinear
from d2_seesaw.layers.one_channel import is_pointwise, one_channel

__all__ = [
    "LayerFactory",
    "NormFactory",
    "NormedConv2d",
    "NormedLinear",
    "SyncBatchNorm2d",
    "activation_checkpoint",
    "is_pointwise",
    "layer_norm",
    "linear_classifier",
    "mask_predictor",
    "normed_linear_classifier",
    "normed_mask_predictor",
    "one_channel",
    "sync_batch_norm",
]
