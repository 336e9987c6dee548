"""Losses on pixels, which also serve classifiers without a background class."""

from d2_seesaw.losses.dense.base import DenseLoss
from d2_seesaw.losses.dense.inverse_frequency import InverseFrequencyLoss
from d2_seesaw.losses.dense.library import DiceLoss, FocalLoss, LovaszLoss
from d2_seesaw.losses.dense.recall import RecallLoss, recall_cross_entropy
from d2_seesaw.losses.dense.seesaw import SeesawCrossEntropyLoss

__all__ = [
    "DenseLoss",
    "DiceLoss",
    "FocalLoss",
    "InverseFrequencyLoss",
    "LovaszLoss",
    "RecallLoss",
    "SeesawCrossEntropyLoss",
    "recall_cross_entropy",
]
