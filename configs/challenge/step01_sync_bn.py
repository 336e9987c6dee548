"""Step 1: batch norm over all GPUs, in the backbone and in the heads.

    python train_net.py --num-gpus 16 --config-file configs/challenge/step01_sync_bn.py

The stem and the first stage stay frozen, as in mmdet. Among the heads, only the mask head has batch
norm: the box head consists of linear layers.

Paper, table 12: mask AP 18.9 (+0.2), APr 0.7, APc 16.0, APf 30.3, box AP 20.2.
Not yet run with this code.
"""

from detectron2.config import LazyCall as L

from d2_seesaw.layers import sync_batch_norm

from .step00_baseline import dataloader, lr_multiplier, model, optimizer, train, tta

model.backbone.bottom_up.stem.norm = "SyncBN"
model.backbone.bottom_up.stages.norm = "SyncBN"
# Unlike "SyncBN", this layer accepts GPUs without a positive RoI.
model.roi_heads.mask_head.conv_norm = L(sync_batch_norm)()
optimizer.params.weight_decay_norm = 0.0
