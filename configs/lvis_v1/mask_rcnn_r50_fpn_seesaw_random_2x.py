r"""Mask R-CNN R50-FPN, Seesaw Loss, random sampling, 2x.

    python train_net.py --num-gpus 8 \
        --config-file configs/lvis_v1/mask_rcnn_r50_fpn_seesaw_random_2x.py

mmdet's model zoo: mask AP 25.0, box AP 25.6. Ours is not yet run.
"""

from ..common.heads.classification import seesaw as _seesaw
from .mask_rcnn_r50_fpn_softmax_random_2x import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
    tta,
)

model.roi_heads.box_predictor.update(_seesaw)
train.output_dir = "output/mask_rcnn_r50_fpn_seesaw_random_2x"
