"""Cascade Mask R-CNN R101-FPN, softmax cross-entropy, repeat factor sampling, 2x.

Paper, table 1: mask AP 27.0, APr 16.6, APc 26.7, APf 32.0, box AP 30.3. Not yet run with this code.
"""

from ..common.data.sampling import repeat_factor as _repeat_factor
from ..common.recipes.cascade_2x import dataloader, lr_multiplier, model, optimizer, train, tta

dataloader.train.sampling = _repeat_factor
