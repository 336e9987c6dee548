r"""Mask R-CNN R50-FPN, Seesaw Loss, repeat factor sampling, 2x.

    python train_net.py --num-gpus 8 \
        --config-file configs/lvis_v1/mask_rcnn_r50_fpn_seesaw_rfs_2x.py

mmdet's model zoo: mask AP 26.4, box AP 27.6. Paper (table 2): mask AP 26.4, APr 19.6,
APc 26.1, APf 29.8, box AP 27.4. Ours is not yet run.
"""

from ..common.heads.classification import seesaw as _seesaw
from .mask_rcnn_r50_fpn_softmax_rfs_2x import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
    tta,
)

model.roi_heads.box_predictor.update(_seesaw)
train.output_dir = "output/mask_rcnn_r50_fpn_seesaw_rfs_2x"
