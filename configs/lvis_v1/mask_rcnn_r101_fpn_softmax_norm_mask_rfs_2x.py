r"""Mask R-CNN R101-FPN, softmax, norm mask, repeat factor sampling, 2x.

    python train_net.py --num-gpus 8 \
        --config-file configs/lvis_v1/mask_rcnn_r101_fpn_softmax_norm_mask_rfs_2x.py

No published number. Ours is not yet run.
"""

from .mask_rcnn_r50_fpn_softmax_norm_mask_rfs_2x import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
    tta,
)

model.backbone.bottom_up.stages.depth = 101
train.output_dir = "output/mask_rcnn_r101_fpn_softmax_norm_mask_rfs_2x"
train.init_checkpoint = "torchvision://ResNet101_Weights.IMAGENET1K_V1"
