r"""mmdet's Seesaw Cascade Mask R-CNN R101-FPN, evaluated as mmdet does.

    python train_net.py --num-gpus 8 --eval-only train.init_checkpoint=CONVERTED.pth \
        --config-file configs/mmdet/cascade_mask_rcnn_r101_fpn_seesaw.py

For converted weights of either sampling. mmdet's model zoo: mask AP 29.2, box AP 33.1 (random
sampling); mask AP 29.3, box AP 30.0 (repeat factors; the paper has 32.8). Not yet run with this
code.
"""

from ..common.mmdet_eval import test_augmentations as _test_augmentations
from ..common.mmdet_eval import two_sided as _two_sided
from ..common.tta import test_size_multiples as tta
from ..lvis_v1.cascade_mask_rcnn_r101_fpn_seesaw_rfs_2x import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
)

model.proposal_generator.box2box_transform.update(_two_sided)
for _predictor in model.roi_heads.box_predictors:
    _predictor.box2box_transform.update(_two_sided)
dataloader.test.mapper.augmentations = _test_augmentations
train.init_checkpoint = ""
