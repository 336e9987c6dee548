"""instances.py with the cascade of configs/quickstart/cascade.py: three box and mask heads."""

from ....configs.quickstart.cascade import model as _cascade
from .instances import dataloader, lr_multiplier, model, optimizer, train

_cascade.roi_heads.num_classes = model.roi_heads.num_classes
model.roi_heads = _cascade.roi_heads
