"""SYNTHIA, sequence 5 in summer: 13 classes, images of 1280 x 760, resized to 768 x 384."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from .cityscapes import dataloader

_resize = L(T.Resize)(shape=(384, 768))

dataloader.train.dataset.names = "synthia_seqs_05_summer_train"
dataloader.train.mapper.augmentations = [_resize, L(T.RandomFlip)(horizontal=True)]
dataloader.test.dataset.names = "synthia_seqs_05_summer_val"
dataloader.test.mapper.augmentations = [_resize]
