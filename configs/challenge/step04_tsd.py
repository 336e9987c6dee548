"""Step 4: TSD box heads in all three stages.

    python train_net.py --num-gpus 16 --config-file configs/challenge/step04_tsd.py

Gradient clipping follows TSD's authors.

Paper, table 12: mask AP 23.5 (+1.6), APr 2.3, APc 22.3, APf 34.0, box AP 25.5.
Not yet run with this code.
"""

from ..common.heads.tsd import box_head as _box_head
from ..common.heads.tsd import box_pooler as _box_pooler
from ..common.heads.tsd import box_predictor as _box_predictor
from .step03_htc_lite import dataloader, lr_multiplier, model, optimizer, train, tta

model.roi_heads.box_pooler.update(_box_pooler)
for _stage in model.roi_heads.box_heads:
    _stage.update(_box_head)
for _stage in model.roi_heads.box_predictors:
    _stage.update(_box_predictor)
train.clip_grad.max_norm = 35.0
