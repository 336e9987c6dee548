"""Base config of `d2-seesaw train --data` for one GPU: Mask R-CNN R50-FPN with Seesaw Loss.

    d2-seesaw train --data train.json val.json --images images --config-file own_data/one_gpu

Mixed precision, ImageNet weights, frozen batch norms and Detectron2's conventions, so that its
COCO weights fit: train.init_checkpoint=model_final_f10217.pkl. The names of datasets stand for the
user's own, and --data chooses sizes, anchors, sampling and length from the data. No published
results: they depend on the data.
"""

from detectron2.config import LazyCall as L

from d2_seesaw.engine import cosine_with_warmup

from ..common.data.lvis_v1 import dataloader
from ..common.data.sampling import repeat_factor as _repeat_factor
from ..common.heads.classification import seesaw as _seesaw
from ..common.heads.mask import norm_mask_head as _norm_mask_head
from ..common.models.mask_rcnn_r50_fpn import model
from ..common.optim import sgd as optimizer
from ..common.train import train
from ..common.tta import test_size_multiples as tta

model.roi_heads.box_predictor.update(_seesaw)
model.roi_heads.mask_head = _norm_mask_head

dataloader.train.sampling = _repeat_factor
dataloader.train.sampling.rounding = "stochastic"
dataloader.train.total_batch_size = 8

optimizer.lr = 0.01
lr_multiplier = L(cosine_with_warmup)(warmup_iters=500, max_iter="${train.max_iter}")

train.init_checkpoint = "torchvision://ResNet50_Weights.IMAGENET1K_V1"
train.epochs = 24
train.reference_world_size = 1
train.amp.enabled = True
train.clip_grad.max_norm = 10.0
