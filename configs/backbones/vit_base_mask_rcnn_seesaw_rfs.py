"""Mask R-CNN with Detectron2's plain ViT-B (ViTDet), Seesaw Loss, repeat factor sampling, LVIS v1.

Images are padded to 1024 x 1024 pixels. No published results: the recipe is our own.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from ..common.backbones.vit import vit_base as _vit_base
from ..common.optim import adamw as optimizer
from ..common.tta import long_edge_1024 as tta
from ..lvis_v1.mask_rcnn_r50_fpn_seesaw_norm_mask_rfs_2x import (
    dataloader,
    lr_multiplier,
    model,
    train,
)

model.backbone = _vit_base
dataloader.train.mapper.augmentations = [
    L(T.ResizeScale)(min_scale=0.1, max_scale=2.0, target_height=1024, target_width=1024),
    L(T.RandomCrop)(crop_type="absolute", crop_size=(1024, 1024)),
    L(T.RandomFlip)(horizontal=True),
]
dataloader.train.mapper.recompute_boxes = True
dataloader.test.mapper.augmentations = [
    L(T.ResizeShortestEdge)(short_edge_length=1024, max_size=1024)
]
optimizer.lr = 1e-4
optimizer.weight_decay = 0.1
train.amp.enabled = True
train.init_checkpoint = (
    "detectron2://ImageNetPretrained/MAE/mae_pretrain_vit_base.pth?matching_heuristics=True"
)
