"""Inference: test-time augmentation, masks on boxes, and prediction on a user's own files."""

import d2_seesaw._requires_detectron2  # noqa: F401  (an error in one line)
from d2_seesaw.inference.calibration import (
    apply_calibration,
    attach_calibration,
    calibration_of,
    detach_calibration,
)
from d2_seesaw.inference.drawing import draw_instances, draw_label_map, drawing_metadata
from d2_seesaw.inference.files import FilePredictions
from d2_seesaw.inference.hand_over import to_fiftyone, to_supervision, to_supervision_dataset
from d2_seesaw.inference.predictor import Predictor, best_instances, load_predictor
from d2_seesaw.inference.roi_masks import ROIMaskInference, with_roi_masks
from d2_seesaw.inference.sources import find_sources
from d2_seesaw.inference.tta import MultiViewInference
from d2_seesaw.inference.tta.merging import MeanOverSharedProposals, UnionOfDetections

__all__ = [
    "FilePredictions",
    "MeanOverSharedProposals",
    "MultiViewInference",
    "Predictor",
    "ROIMaskInference",
    "UnionOfDetections",
    "apply_calibration",
    "attach_calibration",
    "best_instances",
    "calibration_of",
    "detach_calibration",
    "draw_instances",
    "draw_label_map",
    "drawing_metadata",
    "find_sources",
    "load_predictor",
    "to_fiftyone",
    "to_supervision",
    "to_supervision_dataset",
    "with_roi_masks",
]
