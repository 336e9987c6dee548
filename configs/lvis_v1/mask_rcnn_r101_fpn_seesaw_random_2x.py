r"""Mask R-CNN R101-FPN, Seesaw Loss, random sampling, 2x.

    python train_net.py --num-gpus 8 \
        --config-file configs/lvis_v1/mask_rcnn_r101_fpn_seesaw_random_2x.py

Paper (table 1): mask AP 26.6, APr 18.1, APc 25.8, APf 31.2, box AP 27.4. mmdet's model
zoo: mask AP 26.7, box AP 27.4. Ours is not yet run.
"""

from .mask_rcnn_r50_fpn_seesaw_random_2x import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
    tta,
)

model.backbone.bottom_up.stages.depth = 101
train.output_dir = "output/mask_rcnn_r101_fpn_seesaw_random_2x"
train.init_checkpoint = "torchvision://ResNet101_Weights.IMAGENET1K_V1"
