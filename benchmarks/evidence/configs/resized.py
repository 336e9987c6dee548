"""instances.py on images that are resized to half their size, by Pillow with antialiasing."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from .instances import dataloader, lr_multiplier, model, optimizer, train

_half = L(T.ResizeShortestEdge)(short_edge_length=144, max_size=192)
dataloader.train.mapper.augmentations.insert(0, _half)
dataloader.test.mapper.augmentations.insert(0, _half)
