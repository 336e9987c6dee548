r"""mmdet's Seesaw Mask R-CNN R101-FPN with normalized mask predictor, evaluated as mmdet does.

    python train_net.py --num-gpus 8 --eval-only train.init_checkpoint=CONVERTED.pth \
        --config-file configs/mmdet/mask_rcnn_r101_fpn_seesaw_norm_mask.py

For converted weights of either sampling. mmdet's model zoo: mask AP 27.3, box AP 27.2 (random
sampling); mask AP 28.2, box AP 28.9 (repeat factors). Not yet run with this code.
"""

from ..common.heads.mask import norm_mask_head as _norm_mask_head
from .mask_rcnn_r101_fpn_seesaw import dataloader, lr_multiplier, model, optimizer, train, tta

model.roi_heads.mask_head = _norm_mask_head
