"""Classification losses for long-tailed recognition. They depend on PyTorch only."""

from d2_seesaw.losses.dense import (
    DenseLoss,
    DiceLoss,
    FocalLoss,
    InverseFrequencyLoss,
    LovaszLoss,
    RecallLoss,
    SeesawCrossEntropyLoss,
    recall_cross_entropy,
)
from d2_seesaw.losses.progressive import progressive_constraint
from d2_seesaw.losses.protocol import ClassificationLoss
from d2_seesaw.losses.seesaw import SeesawLoss, seesaw_cross_entropy
from d2_seesaw.losses.softmax import SoftmaxLoss

__all__ = [
    "ClassificationLoss",
    "DenseLoss",
    "DiceLoss",
    "FocalLoss",
    "InverseFrequencyLoss",
    "LovaszLoss",
    "RecallLoss",
    "SeesawCrossEntropyLoss",
    "SeesawLoss",
    "SoftmaxLoss",
    "progressive_constraint",
    "recall_cross_entropy",
    "seesaw_cross_entropy",
]
