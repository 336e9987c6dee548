"""Detectron2's Swin Transformers: parts for ``model.backbone.update(...)`` of an FPN.

Weights of Swin's authors, such as ``train.init_checkpoint=
"detectron2://ImageNetPretrained/swin/swin_tiny_patch4_window7_224.pth"``. RGB input. Train them
with ``adamw`` and without weight decay on ``relative_position_bias_table``.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling import SwinTransformer


def _swin(embed_dim, depths, num_heads, drop_path_rate):
    return dict(
        bottom_up=L(SwinTransformer)(
            embed_dim=embed_dim,
            depths=depths,
            num_heads=num_heads,
            window_size=7,
            drop_path_rate=drop_path_rate,
            out_indices=[0, 1, 2, 3],
        ),
        in_features=["p0", "p1", "p2", "p3"],
    )


swin_tiny = _swin(96, [2, 2, 6, 2], [3, 6, 12, 24], 0.2)
swin_small = _swin(96, [2, 2, 18, 2], [3, 6, 12, 24], 0.2)
swin_base = _swin(128, [2, 2, 18, 2], [4, 8, 16, 32], 0.4)
swin_large = _swin(192, [2, 2, 18, 2], [6, 12, 24, 48], 0.4)
