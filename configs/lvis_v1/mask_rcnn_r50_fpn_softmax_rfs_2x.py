"""Mask R-CNN R50-FPN, softmax cross-entropy, repeat factor sampling, 2x.

Paper, table 8: mask AP 24.0, APr 14.0, APc 23.4, APf 29.0, box AP 24.9. Not yet run with this code.
"""

from ..common.data.sampling import repeat_factor as _repeat_factor
from ..common.recipes.mask_rcnn_2x import dataloader, lr_multiplier, model, optimizer, train, tta

dataloader.train.sampling = _repeat_factor
