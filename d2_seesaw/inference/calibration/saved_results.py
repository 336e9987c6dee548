r"""Approximate calibration of saved detections, whose other scores are lost.

A saved detection has the score s of its class alone. The rest, 1 - s, is taken for background, so
that the log odds :math:`\log s / (1 - s)` are calibrated as those of one sigmoid. This equals the
exact method where a single class shares the score with background, or if scores are independent.
Detections below the score threshold of the evaluation are missing, and suppression is not repeated.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from d2_seesaw.evaluation import Detections
from d2_seesaw.layers import Calibration
from d2_seesaw.layers.calibration import slopes_and_offsets


def calibrate_detections(
    detections: Detections, calibration: Calibration, class_of: Mapping[int, int]
) -> Detections:
    """Calibrate the scores of saved detections, approximately.

    Mask scores are multiplied by the ratio of the new and the old score.

    Args:
        detections: saved detections with scores in [0, 1].
        calibration: any method except ``"tau-norm"``.
        class_of: class of each category id.

    Raises:
        ValueError: tau-norm, which needs the classifier; an unknown category; scores out of range.
    """
    if calibration.method == "tau-norm":
        raise ValueError("tau-norm changes the classifier, which saved results do not have")
    unknown = sorted(set(detections.category_ids.tolist()) - class_of.keys())
    if unknown:
        raise ValueError(f"the results have category {unknown[0]}, which the counts do not have")
    scores = detections.scores.astype(np.float64)
    if len(scores) and not (scores.min() >= 0 and scores.max() <= 1):
        raise ValueError(f"scores must be in [0, 1], got {scores.min():g} to {scores.max():g}")
    if calibration.is_identity:
        return detections
    classes = torch.tensor([class_of[c] for c in detections.category_ids.tolist()], dtype=torch.int)
    slopes, offsets = slopes_and_offsets(calibration)
    given = torch.as_tensor(scores)
    odds = (given.log() - torch.log1p(-given)) * slopes[classes] + offsets[classes]
    new = odds.sigmoid().numpy()
    masks = detections.mask_scores
    if masks is not None:
        masks = masks * np.divide(new, scores, out=np.ones_like(new), where=scores > 0)
    return replace(detections, scores=new, mask_scores=masks)
