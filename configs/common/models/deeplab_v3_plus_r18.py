"""DeepLab v3+ with R18 at output stride 16, with a replaceable loss.

Cross-entropy by default; configs/common/heads/pixel_loss.py has others. RGB input and torchvision's
ImageNet weights. SemanticSegmentor has no input_format, so the data's mapper asks for RGB.

All batch norms are trained, synchronized over all GPUs. Ranks without a GPU need
model.backbone.stem.norm=BN or naiveSyncBN; the other norms follow.
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BasicStem, ResNet
from detectron2.modeling.meta_arch import SemanticSegmentor
from torch import nn

from d2_seesaw.modeling import LossDrivenDeepLabV3PlusHead
from d2_seesaw.modeling.backbones import dilated_resnet_stages

model = L(SemanticSegmentor)(
    backbone=L(ResNet)(
        stem=L(BasicStem)(in_channels=3, out_channels=64, norm="SyncBN"),
        stages=L(dilated_resnet_stages)(depth=18, output_stride=16, norm="${..stem.norm}"),
        out_features=["res2", "res5"],
        freeze_at=0,
    ),
    sem_seg_head=L(LossDrivenDeepLabV3PlusHead)(
        input_shape=dict(
            res2=L(ShapeSpec)(channels=64, stride=4),
            res5=L(ShapeSpec)(channels=512, stride="${....backbone.stages.output_stride}"),
        ),
        loss=L(nn.CrossEntropyLoss)(ignore_index="${..ignore_value}"),
        num_classes=19,
        ignore_value=255,
        project_channels=[48],
        aspp_dilations=[6, 12, 18],
        aspp_dropout=0.1,
        decoder_channels=[256, 256],
        common_stride=4,
        norm="${..backbone.stem.norm}",
        # Pool over the whole image. A crop size, as in Detectron2's own configs, would restrict
        # test images to multiples of it.
        train_size=None,
    ),
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
)
