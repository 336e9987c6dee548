"""Inference: one image seen through several views (test-time augmentation)."""

from d2_seesaw.inference.box_merging import MeanOverSharedProposals, UnionOfDetections
from d2_seesaw.inference.multi_view import MultiViewInference

__all__ = ["MeanOverSharedProposals", "MultiViewInference", "UnionOfDetections"]
