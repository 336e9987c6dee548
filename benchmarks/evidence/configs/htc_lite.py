"""cascade.py with the context encoder and the one mask head of HTC-Lite."""

from ....configs.quickstart.htc_lite import model as _quickstart
from .instances import dataloader, lr_multiplier, model, optimizer, train

_quickstart.roi_heads.num_classes = model.roi_heads.num_classes
model.roi_heads = _quickstart.roi_heads
