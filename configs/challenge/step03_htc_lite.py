"""Step 3: HTC-Lite, three box stages with a global context and one mask head.

    python train_net.py --num-gpus 16 --config-file configs/challenge/step03_htc_lite.py

Paper, table 12: mask AP 21.9 (+2.5), APr 1.1, APc 19.8, APf 33.5, box AP 23.6.
Not yet run with this code.
"""

from ..common.models.htc_lite_r50_fpn import model as _htc_lite
from .step02_carafe import dataloader, lr_multiplier, model, optimizer, train, tta

_htc_lite.roi_heads.mask_head = model.roi_heads.mask_head
model.roi_heads = _htc_lite.roi_heads
model.proposal_generator = _htc_lite.proposal_generator
