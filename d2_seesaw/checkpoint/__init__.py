"""Checkpoints: strict loading, weights from torchvision and mmdet, names of the classes."""

from d2_seesaw.checkpoint.checkpointer import StrictCheckpointer
from d2_seesaw.checkpoint.class_names import (
    check_class_names,
    class_metadata,
    is_semantic,
    number_of_classes,
)
from d2_seesaw.checkpoint.mmdet import MmdetModel, convert_mmdet, describe_mmdet
from d2_seesaw.checkpoint.mmdet_file import MmdetFile, read_mmdet_file
from d2_seesaw.checkpoint.pretrained import convert_torchvision_resnet
from d2_seesaw.checkpoint.resnest import convert_resnest

__all__ = [
    "MmdetFile",
    "MmdetModel",
    "StrictCheckpointer",
    "check_class_names",
    "class_metadata",
    "convert_mmdet",
    "convert_resnest",
    "convert_torchvision_resnet",
    "describe_mmdet",
    "is_semantic",
    "number_of_classes",
    "read_mmdet_file",
]
