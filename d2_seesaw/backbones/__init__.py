"""Backbones beyond Detectron2's."""

from d2_seesaw.backbones.dilated_resnet import DilatedBasicBlock, dilated_resnet_stages

__all__ = ["DilatedBasicBlock", "dilated_resnet_stages"]
