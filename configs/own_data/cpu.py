"""Base config of `d2-seesaw train --data` for a CPU: a small Mask R-CNN with Seesaw Loss.

    d2-seesaw train --data train.json val.json --images images

The names of datasets stand for the user's own, and --data chooses sizes, anchors, sampling and
length from the data. No published results: they depend on the data.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from ..quickstart.seesaw import dataloader, lr_multiplier, model, optimizer, train, tta

dataloader.train.mapper.augmentations = [
    L(T.ResizeShortestEdge)(short_edge_length=(160, 192), sample_style="choice", max_size=320),
    L(T.RandomFlip)(horizontal=True),
]
dataloader.test.mapper.augmentations = [
    L(T.ResizeShortestEdge)(short_edge_length=192, max_size=320)
]
