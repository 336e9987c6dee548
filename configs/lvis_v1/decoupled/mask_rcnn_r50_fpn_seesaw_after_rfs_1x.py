"""Second phase with Seesaw Loss after softmax with repeat factor sampling: the last layer, 1x.

Paper, table 9: mask AP 25.8; trained end-to-end, 26.4. Not yet run with this code.
"""

from .mask_rcnn_r50_fpn_seesaw_after_random_1x import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
    tta,
)

train.init_checkpoint = "output/lvis_v1/mask_rcnn_r50_fpn_softmax_rfs_2x/model_final.pth"
