"""Additional backbones: dilated ResNets, plain ViTs, the models of timm and of torchvision."""

from d2_seesaw.modeling.backbones.dilated_resnet import DilatedBasicBlock, dilated_resnet_stages
from d2_seesaw.modeling.backbones.timm import TimmBackbone
from d2_seesaw.modeling.backbones.torchvision import TorchvisionBackbone
from d2_seesaw.modeling.backbones.vit import PlainViT, layer_decay

__all__ = [
    "DilatedBasicBlock",
    "PlainViT",
    "TimmBackbone",
    "TorchvisionBackbone",
    "dilated_resnet_stages",
    "layer_decay",
]
