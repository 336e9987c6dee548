"""cascade.py with the interleaved boxes and masks of HTC, without a semantic branch."""

from ....configs.quickstart.htc import model as _quickstart
from .instances import dataloader, lr_multiplier, model, optimizer, train

_quickstart.roi_heads.num_classes = model.roi_heads.num_classes
model.roi_heads = _quickstart.roi_heads
