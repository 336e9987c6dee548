"""Base config of `d2-seesaw train --data` for eight GPUs: the flagship recipe of LVIS v1.

    d2-seesaw train --data train.json val.json --images images --num-gpus 8

Mask R-CNN R50-FPN with Seesaw Loss and normalized mask predictor, trained as in mmdet. --data
chooses sizes, anchors, sampling and length from the data; for another number of GPUs it scales the
batch and the learning rate. No published results: they depend on the data.
"""

from detectron2.config import LazyCall as L

from d2_seesaw.engine import cosine_with_warmup

from ..lvis_v1_seesaw import dataloader, model, optimizer, train, tta

lr_multiplier = L(cosine_with_warmup)(warmup_iters=500, max_iter="${train.max_iter}")

train.amp.enabled = True
