"""Cascade Mask R-CNN R101-FPN, softmax cross-entropy, random sampling, 2x.

Paper, table 1: mask AP 22.6, APr 2.4, APc 22.0, APf 32.2, box AP 25.5. Not yet run with this code.
"""

from ..common.recipes.cascade_2x import dataloader, lr_multiplier, model, optimizer, train, tta
