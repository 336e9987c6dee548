"""Classification losses for long-tailed recognition. They depend on PyTorch only."""

from d2_seesaw.losses.balanced_group_softmax import BalancedGroupSoftmaxLoss
from d2_seesaw.losses.dense import DenseLoss
from d2_seesaw.losses.dense_seesaw import SeesawCrossEntropyLoss
from d2_seesaw.losses.inverse_frequency import InverseFrequencyLoss
from d2_seesaw.losses.logit_adjustment import LogitAdjustmentLoss, logit_adjusted_cross_entropy
from d2_seesaw.losses.progressive import progressive_constraint
from d2_seesaw.losses.protocol import ClassificationLoss
from d2_seesaw.losses.recall import RecallLoss, recall_cross_entropy
from d2_seesaw.losses.seesaw import SeesawLoss, seesaw_cross_entropy
from d2_seesaw.losses.softmax import SoftmaxLoss

__all__ = [
    "BalancedGroupSoftmaxLoss",
    "ClassificationLoss",
    "DenseLoss",
    "InverseFrequencyLoss",
    "LogitAdjustmentLoss",
    "RecallLoss",
    "SeesawCrossEntropyLoss",
    "SeesawLoss",
    "SoftmaxLoss",
    "logit_adjusted_cross_entropy",
    "progressive_constraint",
    "recall_cross_entropy",
    "seesaw_cross_entropy",
]
