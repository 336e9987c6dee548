"""htc_lite.py without the context encoder: a cascade with one mask head."""

from ....configs.quickstart.htc_lite_plain import model as _quickstart
from .instances import dataloader, lr_multiplier, model, optimizer, train

for _key in ("num_classes", "box_pooler", "mask_pooler"):
    _quickstart.roi_heads[_key] = model.roi_heads[_key]
model.roi_heads = _quickstart.roi_heads
