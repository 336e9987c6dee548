"""Step 5: Mask Scoring, which gives masks their own scores.

    python train_net.py --num-gpus 16 --config-file configs/challenge/step05_mask_scoring.py

Paper, table 12: mask AP 23.9 (+0.4), APr 2.8, APc 22.4, APf 35.0, box AP 25.6.
Not yet run with this code.
"""

from ..common.heads.mask_iou import scored_mask_head as _scored_mask_head
from .step04_tsd import dataloader, lr_multiplier, model, optimizer, train, tta

_mask_head = model.roi_heads.mask_head
_mask_head.num_classes = "${...num_classes}"  # one level deeper
_scored_mask_head.mask_head = _mask_head
model.roi_heads.mask_head = _scored_mask_head
