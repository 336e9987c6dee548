"""ResNeXt-50 (32 x 4d) for image classification, as torchvision's, trained from scratch.

Softmax cross-entropy by default.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone import BasicStem, ResNet
from detectron2.modeling.backbone.resnet import BottleneckBlock

from d2_seesaw.modeling import ImageClassifier

from ..heads.image_classification import softmax as _softmax


def _stage(num_blocks, in_channels, out_channels, first_stride):
    return L(ResNet.make_stage)(
        block_class=BottleneckBlock,
        num_blocks=num_blocks,
        in_channels=in_channels,
        out_channels=out_channels,
        bottleneck_channels=out_channels // 2,
        num_groups=32,
        stride_in_1x1=False,
        stride_per_block=[first_stride] + [1] * (num_blocks - 1),
        norm="BN",
    )


model = L(ImageClassifier)(
    backbone=L(ResNet)(
        stem=L(BasicStem)(in_channels=3, out_channels=64, norm="BN"),
        stages=[
            _stage(3, 64, 256, first_stride=1),
            _stage(4, 256, 512, first_stride=2),
            _stage(6, 512, 1024, first_stride=2),
            _stage(3, 1024, 2048, first_stride=2),
        ],
        out_features=["res5"],
    ),
    num_classes=1000,
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
    input_format="RGB",
    **_softmax,
)
