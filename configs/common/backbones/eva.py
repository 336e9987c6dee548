"""timm's EVA-02 with Detectron2's simple pyramid: a part for ``model.update(...)``.

Needs ``pip install timm``. The patches have 16 x 16 pixels instead of 14 x 14, and the positions
those of 1024 x 1024 pixels: timm resizes both kinds of weights. All blocks attend to the whole
image; the detectors of EVA-02's authors have windows in most blocks.

ImageNet-22K weights: with ``backbone.net.pretrained=True`` timm downloads its own;
``backbone.net.pretrained=FILE`` reads a file. RGB input with CLIP's mean and standard deviation.
Train it with ``adamw``. ``backbone.net.checkpoint=True`` recomputes activations.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling import SimpleFeaturePyramid
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from d2_seesaw.modeling import TimmBackbone

eva02_base = dict(
    backbone=L(SimpleFeaturePyramid)(
        net=L(TimmBackbone)(
            name="eva02_base_patch14_224",
            pretrained=False,
            out_features=["res4"],
            checkpoint=False,
            drop_path_rate=0.1,
            model_options=dict(img_size="${...square_pad}", patch_size=16),
        ),
        in_feature="${.net.out_features.0}",
        out_channels=256,
        scale_factors=[4.0, 2.0, 1.0, 0.5],
        top_block=L(LastLevelMaxPool)(),
        norm="LN",
        square_pad=1024,
    ),
    pixel_mean=[122.7709, 116.7460, 104.0937],
    pixel_std=[68.5005, 66.6322, 70.3232],
)
