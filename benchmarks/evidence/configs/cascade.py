"""instances.py with the cascade of configs/quickstart/cascade.py: three box and mask heads."""

from ....configs.quickstart.cascade import model as _quickstart
from .instances import dataloader, lr_multiplier, model, optimizer, train

for _key in ("num_classes", "box_pooler", "mask_pooler"):
    _quickstart.roi_heads[_key] = model.roi_heads[_key]
model.roi_heads = _quickstart.roi_heads
