r"""Mask R-CNN R50-FPN, softmax cross-entropy, repeat factor sampling, 2x.

    python train_net.py --num-gpus 8 \
        --config-file configs/lvis_v1/mask_rcnn_r50_fpn_softmax_rfs_2x.py

Paper (table 8): mask AP 24.0, APr 14.0, APc 23.4, APf 29.0, box AP 24.9. Ours is not yet run.
"""

from ..common.data.sampling import repeat_factor as _repeat_factor
from .mask_rcnn_r50_fpn_softmax_random_2x import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
    tta,
)

dataloader.train.sampling = _repeat_factor
train.output_dir = "output/mask_rcnn_r50_fpn_softmax_rfs_2x"
