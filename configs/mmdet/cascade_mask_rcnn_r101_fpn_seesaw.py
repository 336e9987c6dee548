r"""mmdet's Seesaw Cascade Mask R-CNN R101-FPN, evaluated as mmdet does.

    python train_net.py --num-gpus 8 --eval-only train.init_checkpoint=CONVERTED.pth \
        --config-file configs/mmdet/cascade_mask_rcnn_r101_fpn_seesaw.py

For converted weights of either sampling. mmdet's model zoo: mask AP 29.2, box AP 33.1 (random
sampling); mask AP 29.3, box AP 30.0 (repeat factors; the paper has 32.8). Not yet run with this
code.
"""

from ..lvis_v1.cascade_mask_rcnn_r101_fpn_seesaw_rfs_2x import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
    tta,
)

train.init_checkpoint = ""
