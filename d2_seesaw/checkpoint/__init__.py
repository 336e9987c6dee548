"""Checkpoints: strict loading, one writer, weights of other programs, class names."""

import d2_seesaw._requires_detectron2  # noqa: F401  (an error in one line)
from d2_seesaw.checkpoint.checkpointer import (
    StrictCheckpointer,
    save_weights,
)
from d2_seesaw.checkpoint.class_layers import normalized_layers
from d2_seesaw.checkpoint.class_metadata import (
    CALIBRATION,
    check_class_names,
    class_metadata,
    is_classifier,
    is_semantic,
    number_of_classes,
    read_class_metadata,
)
from d2_seesaw.checkpoint.class_transfer import ClassTransfer
from d2_seesaw.checkpoint.mmdet import (
    MmdetFile,
    MmdetModel,
    convert_mmdet,
    describe_mmdet,
    read_mmdet_file,
)
from d2_seesaw.checkpoint.pretrained import convert_resnest, convert_torchvision_resnet
from d2_seesaw.checkpoint.resuming import choose_checkpoint
from d2_seesaw.checkpoint.run_folder import prepare_folder

__all__ = [
    "CALIBRATION",
    "ClassTransfer",
    "MmdetFile",
    "MmdetModel",
    "StrictCheckpointer",
    "check_class_names",
    "choose_checkpoint",
    "class_metadata",
    "convert_mmdet",
    "convert_resnest",
    "convert_torchvision_resnet",
    "describe_mmdet",
    "is_classifier",
    "is_semantic",
    "normalized_layers",
    "number_of_classes",
    "prepare_folder",
    "read_class_metadata",
    "read_mmdet_file",
    "save_weights",
]
