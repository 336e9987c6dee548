"""Calibration of trained detectors: fitting, and use in inference."""

from d2_seesaw.inference.calibration.attaching import (
    apply_calibration,
    attach_calibration,
    calibration_of,
    detach_calibration,
    score_structure,
)
from d2_seesaw.inference.calibration.fitting import (
    GRID,
    MAX_ROIS,
    Fit,
    fit_calibration,
    fit_exponent,
    fit_temperatures,
    groups_of,
)
from d2_seesaw.inference.calibration.saved_results import calibrate_detections
from d2_seesaw.inference.calibration.splits import (
    FittingSplit,
    MatchedClasses,
    choose_images,
    match_classes,
    training_counts,
)

__all__ = [
    "GRID",
    "MAX_ROIS",
    "Fit",
    "FittingSplit",
    "MatchedClasses",
    "apply_calibration",
    "attach_calibration",
    "calibrate_detections",
    "calibration_of",
    "choose_images",
    "detach_calibration",
    "fit_calibration",
    "fit_exponent",
    "fit_temperatures",
    "groups_of",
    "match_classes",
    "score_structure",
    "training_counts",
]
