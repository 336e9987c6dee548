"""Additional backbones for Detectron2: dilated ResNets, plain ViTs and the models of timm."""

from d2_seesaw.modeling.backbones.dilated_resnet import DilatedBasicBlock, dilated_resnet_stages
from d2_seesaw.modeling.backbones.timm import TimmBackbone
from d2_seesaw.modeling.backbones.vit import PlainViT, layer_decay

__all__ = ["DilatedBasicBlock", "PlainViT", "TimmBackbone", "dilated_resnet_stages", "layer_decay"]
