r"""mmdet's Seesaw Mask R-CNN R50-FPN, evaluated as mmdet does.

    python train_net.py --num-gpus 8 --eval-only train.init_checkpoint=CONVERTED.pth \
        --config-file configs/mmdet/mask_rcnn_r50_fpn_seesaw.py

For converted weights of either sampling. mmdet's model zoo: mask AP 25.0, box AP 25.6 (random
sampling); mask AP 26.4, box AP 27.6 (repeat factors). Not yet run with this code.
"""

from ..common.mmdet_eval import test_augmentations as _test_augmentations
from ..common.mmdet_eval import two_sided as _two_sided
from ..common.tta import test_size_multiples as tta
from ..lvis_v1.mask_rcnn_r50_fpn_seesaw_rfs_2x import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
)

model.proposal_generator.box2box_transform.update(_two_sided)
model.roi_heads.box_predictor.box2box_transform.update(_two_sided)
dataloader.test.mapper.augmentations = _test_augmentations
train.init_checkpoint = ""
