r"""mmdet's Seesaw Mask R-CNN R101-FPN, evaluated as mmdet does.

    python train_net.py --num-gpus 8 --eval-only train.init_checkpoint=CONVERTED.pth \
        --config-file configs/mmdet/mask_rcnn_r101_fpn_seesaw.py

For converted weights of either sampling. mmdet's model zoo: mask AP 26.7, box AP 27.4 (random
sampling); mask AP 27.6, box AP 28.9 (repeat factors). Not yet run with this code.
"""

from .mask_rcnn_r50_fpn_seesaw import dataloader, lr_multiplier, model, optimizer, train, tta

model.backbone.bottom_up.stages.depth = 101
