r"""Mask R-CNN R50-FPN, softmax cross-entropy, normalised mask predictor, random sampling, 2x.

    python train_net.py --num-gpus 8 \
        --config-file configs/lvis_v1/mask_rcnn_r50_fpn_softmax_norm_mask_random_2x.py

No published number. Ours is not yet run.
"""

from ..common.heads.mask import norm_mask_head as _norm_mask_head
from .mask_rcnn_r50_fpn_softmax_random_2x import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
    tta,
)

model.roi_heads.mask_head = _norm_mask_head
train.output_dir = "output/mask_rcnn_r50_fpn_softmax_norm_mask_random_2x"
