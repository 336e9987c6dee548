"""Small HTC-Lite with Seesaw Loss on the quickstart's data: minutes on a CPU.

    d2-seesaw generate instances
    python train_net.py --config-file configs/quickstart/htc_lite.py

This is configs/quickstart/cascade.py with a context encoder and one mask head.
No published results: the data are generated. docs/model_zoo.md lists measured results.
"""

from ..common.models.htc_lite_r50_fpn import model as _htc_lite
from .cascade import dataloader, lr_multiplier, model, optimizer, train, tta
from .seesaw import model as _quickstart

_heads = _htc_lite.roi_heads
_heads.context_encoder.channels = "${model.backbone.out_channels}"
for _key in model.roi_heads:
    if _key not in ("_target_", "mask_head"):
        _heads[_key] = model.roi_heads[_key]
_heads.mask_head = _quickstart.roi_heads.mask_head
model.roi_heads = _heads
