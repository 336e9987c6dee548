r"""Mask R-CNN R101-FPN, Seesaw Loss, normalised mask predictor, repeat factor sampling, 2x.

    python train_net.py --num-gpus 8 \
        --config-file configs/lvis_v1/mask_rcnn_r101_fpn_seesaw_norm_mask_rfs_2x.py

Paper (table 1): mask AP 28.1, APr 20.0, APc 28.0, APf 31.8, box AP 28.9. mmdet's model
zoo: mask AP 28.2, box AP 28.9. Ours is not yet run.
"""

from .mask_rcnn_r50_fpn_seesaw_norm_mask_rfs_2x import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
    tta,
)

model.backbone.bottom_up.stages.depth = 101
train.output_dir = "output/mask_rcnn_r101_fpn_seesaw_norm_mask_rfs_2x"
train.init_checkpoint = "torchvision://ResNet101_Weights.IMAGENET1K_V1"
