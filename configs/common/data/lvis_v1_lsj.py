"""LVIS v1 with large-scale jitter, as in Detectron2's ViTDet project.

In training, images are resized by 0.1 to 2.0 relative to a square of 1024 pixels and cropped to it.
In testing, the long edge is 1024 pixels. Repeat factors are rounded stochastically.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from d2_seesaw.data import RepeatFactorSampling

from .lvis_v1 import dataloader

_SQUARE = 1024

dataloader.train.sampling = L(RepeatFactorSampling)(threshold=1e-3, rounding="stochastic")
dataloader.train.mapper.augmentations = [
    L(T.RandomFlip)(horizontal=True),
    L(T.ResizeScale)(min_scale=0.1, max_scale=2.0, target_height=_SQUARE, target_width=_SQUARE),
    L(T.FixedSizeCrop)(crop_size=(_SQUARE, _SQUARE), pad=False),
]
dataloader.train.mapper.recompute_boxes = True
dataloader.train.total_batch_size = 64
dataloader.test.mapper.augmentations = [
    L(T.ResizeShortestEdge)(short_edge_length=_SQUARE, max_size=_SQUARE)
]
