"""Classification losses for long-tailed recognition. Pure torch: usable without Detectron2."""

from d2_seesaw.losses.cross_entropy import SoftmaxLoss
from d2_seesaw.losses.progressive import progressive_constraint
from d2_seesaw.losses.protocol import ClassificationLoss
from d2_seesaw.losses.seesaw import SeesawLoss, seesaw_cross_entropy

__all__ = [
    "ClassificationLoss",
    "SeesawLoss",
    "SoftmaxLoss",
    "progressive_constraint",
    "seesaw_cross_entropy",
]
