r"""mmdet's HTC R50-FPN with its semantic branch on COCO, evaluated as mmdet does.

    python train_net.py --num-gpus 8 --eval-only train.init_checkpoint=CONVERTED.pth \
        --config-file configs/mmdet/htc_r50_fpn.py

For converted weights; evaluation needs no stuff maps. mmdet's model zoo: mask AP 37.4, box AP 42.3
(12 epochs); mask AP 38.3, box AP 43.3 (20 epochs), measured with mmdet 2.x, which averages the
masks of the three heads. mmdet 3.3.0 uses the last one: model.roi_heads.mask_fusion=last. Not yet
run with this code.
"""

from ..common.models.htc_r50_fpn import add_semantic_branch as _add_semantic_branch
from .htc_without_semantic_r50_fpn import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
    tta,
)

_add_semantic_branch(model)
dataloader.train.dataset.names = "coco_2017_train_stuffthingmaps"
