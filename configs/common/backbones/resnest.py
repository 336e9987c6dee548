"""timm's ResNeSt: parts for ``model.backbone.bottom_up``. Needs ``pip install timm``.

``resnest_200_dcn`` is the backbone of the winning entry of LVIS 2020. Its paper does not say which
stages have deformable convolutions; these are the last three, as in the DCNv2 paper.

ImageNet weights: with ``pretrained=True`` timm downloads its own; ``pretrained=FILE`` and
``train.init_checkpoint=FILE`` read a file. RGB input, pixel mean and std as in models/.
"""

from detectron2.config import LazyCall as L

from d2_seesaw.modeling.backbones import TimmBackbone


def _resnest(name, **options):
    return L(TimmBackbone)(
        name=name,
        pretrained=False,
        out_features=["res2", "res3", "res4", "res5"],
        norm="SyncBN",
        freeze_at=2,
        checkpoint=False,
        **options,
    )


resnest_50 = _resnest("resnest50d")
resnest_101 = _resnest("resnest101e")
resnest_200 = _resnest("resnest200e")
resnest_200_dcn = _resnest(
    "resnest200e", dcn_stages=["res3", "res4", "res5"], dcn_options=dict(mask_gain=1.0)
)
