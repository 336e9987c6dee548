"""Mask R-CNN R50-FPN, Seesaw Loss, normalized masks, repeat factor sampling, 2x.

mmdet's model zoo: mask AP 26.8, box AP 27.6. This is the recipe of configs/lvis_v1_seesaw.py. Not
yet run with this code.
"""

from ..lvis_v1_seesaw import dataloader, lr_multiplier, model, optimizer, train, tta
