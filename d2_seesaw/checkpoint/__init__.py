"""Loading weights: strictly, from torchvision and from mmdet."""

from d2_seesaw.checkpoint.checkpointer import StrictCheckpointer
from d2_seesaw.checkpoint.mmdet import MmdetModel, convert_mmdet, describe_mmdet
from d2_seesaw.checkpoint.mmdet_file import MmdetFile, read_mmdet_file
from d2_seesaw.checkpoint.resnest import convert_resnest
from d2_seesaw.checkpoint.torchvision_resnet import convert_torchvision_resnet

__all__ = [
    "MmdetFile",
    "MmdetModel",
    "StrictCheckpointer",
    "convert_mmdet",
    "convert_resnest",
    "convert_torchvision_resnet",
    "describe_mmdet",
    "read_mmdet_file",
]
