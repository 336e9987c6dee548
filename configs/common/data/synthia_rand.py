"""SYNTHIA-RAND-CITYSCAPES with the 16 classes it shares with Cityscapes."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from .cityscapes import dataloader

dataloader.train.dataset.names = "synthia_rand_cityscapes_train"
dataloader.train.mapper.augmentations = [
    L(T.ResizeShortestEdge)(short_edge_length=(512, 1024), sample_style="range", max_size=2048),
    L(T.RandomCrop)(crop_type="absolute", crop_size=(512, 768)),
    L(T.RandomFlip)(horizontal=True),
]
dataloader.test.dataset.names = "synthia_rand_cityscapes_val"
