r"""mmdet's HTC R50-FPN without its semantic branch on COCO, evaluated as mmdet does.

    python train_net.py --num-gpus 8 --eval-only train.init_checkpoint=CONVERTED.pth \
        --config-file configs/mmdet/htc_without_semantic_r50_fpn.py

For converted weights. mmdet 3.3.0 uses the mask of the last head alone:
model.roi_heads.mask_fusion=last.
No published results: mmdet's model zoo has weights with the semantic branch alone. Not yet run
with this code.
"""

from ..coco.htc_without_semantic_r50_fpn_1x import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
    tta,
)
from ..common.mmdet_eval import test_augmentations as _test_augmentations
from ..common.mmdet_eval import two_sided as _two_sided

dataloader.test.mapper.augmentations = _test_augmentations
model.proposal_generator.box2box_transform.update(_two_sided)
for _predictor in model.roi_heads.box_predictors:
    _predictor.box2box_transform.update(_two_sided)
train.init_checkpoint = ""
