"""Hybrid Task Cascade R50-FPN with its semantic branch on COCO 2017, 12 epochs.

    python train_net.py --num-gpus 8 --config-file configs/coco/htc_r50_fpn_1x.py

Training needs COCO's stuff maps (stuffthingmaps_trainval2017.zip of COCO-Stuff) in
$DETECTRON2_DATASETS/coco/stuffthingmaps; evaluation does not.
mmdet's model zoo: mask AP 37.4, box AP 42.3. Not yet run with this code.
"""

from ..common.models.htc_r50_fpn import add_semantic_branch as _add_semantic_branch
from .htc_without_semantic_r50_fpn_1x import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
    tta,
)

_add_semantic_branch(model)
dataloader.train.dataset.names = "coco_2017_train_stuffthingmaps"
