"""Small Hybrid Task Cascade with Seesaw Loss on the quickstart's data: minutes on a CPU.

    d2-seesaw generate instances
    python train_net.py --config-file configs/quickstart/htc.py

This is configs/quickstart/cascade.py with interleaved boxes and masks and mask information flow.
There is no semantic branch, because the data have no label maps.
No published results: the data are generated.
"""

from ..common.models.htc_r50_fpn import model as _htc
from .cascade import dataloader, lr_multiplier, model, optimizer, train, tta

_heads = _htc.roi_heads
for _key in model.roi_heads:
    if _key != "_target_":
        _heads[_key] = model.roi_heads[_key]
model.roi_heads = _heads
