r"""Mask R-CNN R101-FPN, softmax cross-entropy, repeat factor sampling, 2x.

    python train_net.py --num-gpus 8 \
        --config-file configs/lvis_v1/mask_rcnn_r101_fpn_softmax_rfs_2x.py

Paper (table 1): mask AP 25.5, APr 16.6, APc 24.5, APf 30.6, box AP 26.6. Ours is not yet run.
"""

from .mask_rcnn_r50_fpn_softmax_rfs_2x import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
    tta,
)

model.backbone.bottom_up.stages.depth = 101
train.output_dir = "output/mask_rcnn_r101_fpn_softmax_rfs_2x"
train.init_checkpoint = "torchvision://ResNet101_Weights.IMAGENET1K_V1"
