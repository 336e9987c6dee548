"""Step 9: Seesaw Loss in the classification branches, without TSD's constraint on them.

    python train_net.py --num-gpus 16 --config-file configs/challenge/step09_seesaw.py

Paper, table 12: mask AP 36.8 (+6.9), APr 25.5, APc 35.6, APf 42.9, box AP 39.8.
Not yet run with this code.
"""

from ..common.heads.tsd import seesaw as _seesaw
from .step08_resnest200_dcn import dataloader, lr_multiplier, model, optimizer, train, tta

for _stage in model.roi_heads.box_predictors:
    _stage.update(_seesaw)
