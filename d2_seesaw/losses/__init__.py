"""Classification losses for long-tailed recognition. They depend on PyTorch only."""

from d2_seesaw.losses.balanced_group_softmax import BalancedGroupSoftmaxLoss
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
from d2_seesaw.losses.ecm import ECMLoss
from d2_seesaw.losses.equalization_v2 import EqualizationLossV2
from d2_seesaw.losses.federated import FederatedLoss
from d2_seesaw.losses.federated_seesaw import FederatedSeesawLoss
from d2_seesaw.losses.logit_adjustment import LogitAdjustmentLoss, logit_adjusted_cross_entropy
from d2_seesaw.losses.progressive import progressive_constraint
from d2_seesaw.losses.protocol import ClassificationLoss, VerifiedClassificationLoss
from d2_seesaw.losses.seesaw import SeesawLoss, seesaw_cross_entropy
from d2_seesaw.losses.softmax import SoftmaxLoss

__all__ = [
    "BalancedGroupSoftmaxLoss",
    "ClassificationLoss",
    "DenseLoss",
    "DiceLoss",
    "ECMLoss",
    "EqualizationLossV2",
    "FederatedLoss",
    "FederatedSeesawLoss",
    "FocalLoss",
    "InverseFrequencyLoss",
    "LogitAdjustmentLoss",
    "LovaszLoss",
    "RecallLoss",
    "SeesawCrossEntropyLoss",
    "SeesawLoss",
    "SoftmaxLoss",
    "VerifiedClassificationLoss",
    "logit_adjusted_cross_entropy",
    "progressive_constraint",
    "recall_cross_entropy",
    "seesaw_cross_entropy",
]
