"""Semantic FPN with R50: the semantic branch of Panoptic FPN, with a replaceable loss.

Cross-entropy by default; configs/common/heads/pixel_loss.py has others. RGB input and torchvision's
ImageNet weights, hence the stride in the 3x3 convolutions. SemanticSegmentor has no input_format,
so the data's mapper asks for RGB.
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import FPN, BasicStem, ResNet
from detectron2.modeling.meta_arch import SemanticSegmentor
from torch import nn

from d2_seesaw.modeling import LossDrivenSemSegFPNHead

model = L(SemanticSegmentor)(
    backbone=L(FPN)(
        bottom_up=L(ResNet)(
            stem=L(BasicStem)(in_channels=3, out_channels=64, norm="FrozenBN"),
            stages=L(ResNet.make_default_stages)(depth=50, stride_in_1x1=False, norm="FrozenBN"),
            out_features=["res2", "res3", "res4", "res5"],
            freeze_at=2,
        ),
        in_features="${.bottom_up.out_features}",
        out_channels=256,
    ),
    sem_seg_head=L(LossDrivenSemSegFPNHead)(
        input_shape={
            name: L(ShapeSpec)(stride=stride, channels="${....backbone.out_channels}")
            for name, stride in [("p2", 4), ("p3", 8), ("p4", 16), ("p5", 32)]
        },
        loss=L(nn.CrossEntropyLoss)(ignore_index="${..ignore_value}"),
        num_classes=19,
        ignore_value=255,
        conv_dims=128,
        common_stride=4,
        norm="GN",
    ),
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
)
