r"""Mask R-CNN R50-FPN, Seesaw Loss, normalised mask predictor, repeat factor sampling, 2x.

    python train_net.py --num-gpus 8 \
        --config-file configs/lvis_v1/mask_rcnn_r50_fpn_seesaw_norm_mask_rfs_2x.py

mmdet's model zoo: mask AP 26.8, box AP 27.6. The recipe of
configs/lvis_v1_seesaw.py. Ours is not yet run.
"""

from ..lvis_v1_seesaw import dataloader, lr_multiplier, model, optimizer, train, tta

train.output_dir = "output/mask_rcnn_r50_fpn_seesaw_norm_mask_rfs_2x"
