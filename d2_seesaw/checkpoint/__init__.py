"""Loading weights: strictly, and from torchvision."""

from d2_seesaw.checkpoint.checkpointer import StrictCheckpointer
from d2_seesaw.checkpoint.torchvision_resnet import convert_torchvision_resnet

__all__ = ["StrictCheckpointer", "convert_torchvision_resnet"]
