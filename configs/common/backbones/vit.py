"""Detectron2's plain vision transformers with their simple pyramid: parts for ``model.backbone``.

They pad every image to 1024 x 1024 pixels. Limit the long edge to 1024 in the augmentations and in
the views of ``tta``.

Weights of MAE, such as ``train.init_checkpoint=
"detectron2://ImageNetPretrained/MAE/mae_pretrain_vit_base.pth?matching_heuristics=True"``. RGB
input. Train them with ``adamw``. ``net.use_act_checkpoint=True`` recomputes activations.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling import SimpleFeaturePyramid
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from d2_seesaw.layers import layer_norm
from d2_seesaw.modeling import PlainViT


def _vit(embed_dim, depth, num_heads, drop_path_rate):
    # Four evenly spaced blocks attend to the whole image, the others within windows.
    spacing = depth // 4
    return L(SimpleFeaturePyramid)(
        net=L(PlainViT)(
            img_size="${..square_pad}",
            patch_size=16,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            drop_path_rate=drop_path_rate,
            norm_layer=L(layer_norm)(eps=1e-6),
            window_size=14,
            window_block_indexes=[b for b in range(depth) if (b + 1) % spacing],
            use_rel_pos=True,
            out_feature="last_feat",
        ),
        in_feature="${.net.out_feature}",
        out_channels=256,
        scale_factors=[4.0, 2.0, 1.0, 0.5],
        top_block=L(LastLevelMaxPool)(),
        norm="LN",
        square_pad=1024,
    )


vit_base = _vit(768, 12, 12, 0.1)
vit_large = _vit(1024, 24, 16, 0.4)
