"""COCO 2017: one training scale, single-scale testing, every image once per epoch."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from d2_seesaw.evaluation import MaskScoringCOCOEvaluator

from .lvis_v1 import dataloader

dataloader.train.dataset.names = "coco_2017_train"
dataloader.train.mapper.augmentations = [
    L(T.ResizeShortestEdge)(short_edge_length=800, max_size=1333),
    L(T.RandomFlip)(horizontal=True),
]
dataloader.test.dataset.names = "coco_2017_val"
dataloader.evaluator = L(MaskScoringCOCOEvaluator)(
    dataset_name="${..test.dataset.names}",
    output_dir="${train.output_dir}/inference",
)
