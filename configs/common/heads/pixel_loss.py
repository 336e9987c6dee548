"""Losses on pixels: parts for ``model.sem_seg_head.loss``."""

from detectron2.config import LazyCall as L
from torch import nn

from d2_seesaw.losses import InverseFrequencyLoss, RecallLoss, SeesawCrossEntropyLoss

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
