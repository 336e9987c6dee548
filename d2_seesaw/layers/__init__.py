"""Layers for long-tailed recognition. They depend on PyTorch only."""

from d2_seesaw.layers.calibration import Calibration, ScoreCalibration, tau_normalized
from d2_seesaw.layers.carafe import CarafeDownsample, CarafeUpsample
from d2_seesaw.layers.deform_conv import DeformConv2d, deform_convs
from d2_seesaw.layers.norm import (
    FrozenStatisticsBatchNorm2d,
    NormFactory,
    SyncBatchNorm2d,
    frozen_statistics_batch_norm,
    layer_norm,
    sync_batch_norm,
)
from d2_seesaw.layers.normed import NormedConv2d, NormedLinear, TauNormalizedLinear
from d2_seesaw.layers.predictors import (
    LayerFactory,
    kaiming_mask_predictor,
    linear_classifier,
    mask_predictor,
    normed_linear_classifier,
    normed_mask_predictor,
    tau_normalized_classifier,
)
from d2_seesaw.layers.pyramid_roi_align import roi_align_pyramid
from d2_seesaw.layers.roi_align import roi_align_with_offsets
from d2_seesaw.layers.sparse_gradient_conv import conv2d_sparse_gradient

__all__ = [
    "Calibration",
    "CarafeDownsample",
    "CarafeUpsample",
    "DeformConv2d",
    "FrozenStatisticsBatchNorm2d",
    "LayerFactory",
    "NormFactory",
    "NormedConv2d",
    "NormedLinear",
    "ScoreCalibration",
    "SyncBatchNorm2d",
    "TauNormalizedLinear",
    "conv2d_sparse_gradient",
    "deform_convs",
    "frozen_statistics_batch_norm",
    "kaiming_mask_predictor",
    "layer_norm",
    "linear_classifier",
    "mask_predictor",
    "normed_linear_classifier",
    "normed_mask_predictor",
    "roi_align_pyramid",
    "roi_align_with_offsets",
    "sync_batch_norm",
    "tau_normalized",
    "tau_normalized_classifier",
]
