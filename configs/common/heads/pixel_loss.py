"""Losses on pixels: parts for ``model.sem_seg_head.loss``."""

from detectron2.config import LazyCall as L
from detectron2.projects.deeplab.loss import DeepLabCE
from torch import nn

from d2_seesaw.losses import (
    DiceLoss,
    FocalLoss,
    InverseFrequencyLoss,
    LovaszLoss,
    RecallLoss,
    SeesawCrossEntropyLoss,
)

cross_entropy = L(nn.CrossEntropyLoss)(ignore_index="${..ignore_value}")

inverse_frequency = L(InverseFrequencyLoss)(
    num_classes="${..num_classes}", ignore_index="${..ignore_value}"
)

recall = L(RecallLoss)(
    num_classes="${..num_classes}",
    ignore_index="${..ignore_value}",
    reduction="pixel_mean",
    momentum=0.0,
)

seesaw = L(SeesawCrossEntropyLoss)(
    num_classes="${..num_classes}", ignore_index="${..ignore_value}", p=0.8, q=2.0, eps=1e-2
)

# Of segmentation-models-pytorch, which must be installed.
dice = L(DiceLoss)(num_classes="${..num_classes}", ignore_index="${..ignore_value}")
lovasz = L(LovaszLoss)(num_classes="${..num_classes}", ignore_index="${..ignore_value}")
focal = L(FocalLoss)(num_classes="${..num_classes}", ignore_index="${..ignore_value}", gamma=2.0)

# Online hard example mining: the mean cross-entropy of the 20 % of all pixels that have the highest
# one. Ignored pixels have 0.
ohem = L(DeepLabCE)(ignore_label="${..ignore_value}", top_k_percent_pixels=0.2)
