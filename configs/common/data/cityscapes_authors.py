"""Cityscapes with the augmentations of Recall Loss's authors, and whole images in testing.

Color jitter of 0.5, horizontal flips, a scale of 0.75 to 2 in steps of 0.25, and crops of 769.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from d2_seesaw.data import EnlargeToCrop, PillowColorJitter

from .cityscapes import dataloader

dataloader.train.mapper.augmentations = [
    L(PillowColorJitter)(brightness=0.5, contrast=0.5, saturation=0.5),
    L(T.RandomFlip)(horizontal=True),
    # Their scales times the height of 1024.
    L(T.ResizeShortestEdge)(
        short_edge_length=[768, 1024, 1280, 1536, 1792, 2048], sample_style="choice", max_size=4096
    ),
    L(EnlargeToCrop)(crop_size=(769, 769)),
    L(T.RandomCrop)(crop_type="absolute", crop_size=(769, 769)),
]
dataloader.train.num_workers = 8
