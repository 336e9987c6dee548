r"""mmdet's Seesaw Cascade Mask R-CNN R101-FPN, normalized masks, evaluated as mmdet does.

    python train_net.py --num-gpus 8 --eval-only train.init_checkpoint=CONVERTED.pth \
        --config-file configs/mmdet/cascade_mask_rcnn_r101_fpn_seesaw_norm_mask.py

For converted weights of either sampling. mmdet's model zoo: mask AP 30.0, box AP 33.0 (random
sampling); mask AP 30.1, box AP 32.8 (repeat factors). Not yet run with this code.
"""

from ..common.heads.mask import norm_mask_predictor as _norm_mask_predictor
from .cascade_mask_rcnn_r101_fpn_seesaw import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
    tta,
)

for _head in model.roi_heads.mask_head:
    _head.predictor = _norm_mask_predictor
