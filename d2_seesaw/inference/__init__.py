"""Inference: an image seen through several views (test-time augmentation), masks on boxes."""

from d2_seesaw.inference.box_merging import MeanOverSharedProposals, UnionOfDetections
from d2_seesaw.inference.multi_view import MultiViewInference
from d2_seesaw.inference.roi_masks import ROIMaskInference, with_roi_masks

__all__ = [
    "MeanOverSharedProposals",
    "MultiViewInference",
    "ROIMaskInference",
    "UnionOfDetections",
    "with_roi_masks",
]
