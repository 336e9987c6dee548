"""Torchvision's classifiers: parts for ``model.backbone.bottom_up`` of an FPN.

Any other of them works by its name, such as ``name="regnet_y_1_6gf"``. ImageNet weights:
``train.init_checkpoint="torchvision://ResNet18_Weights.IMAGENET1K_V1"``. RGB input, pixel mean and
std as in models/; only efficientnet_v2_l was trained with others. Train models without batch norm
with ``adamw``.
"""

from detectron2.config import LazyCall as L

from d2_seesaw.modeling.backbones import TorchvisionBackbone


def _torchvision(name, norm="FrozenBN", freeze_at=2, **options):
    return L(TorchvisionBackbone)(
        name=name,
        out_features=["res2", "res3", "res4", "res5"],
        norm=norm,
        freeze_at=freeze_at,
        **options,
    )


mobilenet_v2 = _torchvision("mobilenet_v2")
resnet_18 = _torchvision("resnet18")
efficientnet_v2_s = _torchvision("efficientnet_v2_s")
convnext_tiny = _torchvision(
    "convnext_tiny", norm="BN", freeze_at=0, model_options=dict(stochastic_depth_prob=0.2)
)
swin_tiny = _torchvision(
    "swin_t", norm="BN", freeze_at=0, model_options=dict(stochastic_depth_prob=0.2)
)
