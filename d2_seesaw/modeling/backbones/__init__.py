"""Additional backbones for Detectron2: dilated ResNets and the models of timm."""

from d2_seesaw.modeling.backbones.dilated_resnet import DilatedBasicBlock, dilated_resnet_stages
from d2_seesaw.modeling.backbones.timm import TimmBackbone

__all__ = ["DilatedBasicBlock", "TimmBackbone", "dilated_resnet_stages"]
