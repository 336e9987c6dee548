r"""mmdet's Seesaw Mask R-CNN R50-FPN, evaluated as mmdet does.

    python train_net.py --num-gpus 8 --eval-only train.init_checkpoint=CONVERTED.pth \
        --config-file configs/mmdet/mask_rcnn_r50_fpn_seesaw.py

For converted weights of either sampling. mmdet's model zoo: mask AP 25.0, box AP 25.6 (random
sampling); mask AP 26.4, box AP 27.6 (repeat factors). Not yet run with this code.
"""

from ..lvis_v1.mask_rcnn_r50_fpn_seesaw_rfs_2x import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
    tta,
)

train.init_checkpoint = ""
