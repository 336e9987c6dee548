"""Calibration of trained detectors: fitting, and use in inference."""

from d2_seesaw.inference.calibration.attaching import (
    apply_calibration,
    attach_calibration,
    calibration_of,
    detach_calibration,
    score_structure,
)

__all__ = [
    "apply_calibration",
    "attach_calibration",
    "calibration_of",
    "detach_calibration",
    "score_structure",
]
