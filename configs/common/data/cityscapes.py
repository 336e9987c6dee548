"""Cityscapes, fine annotations: crops of 768 x 768 in training, whole images in testing."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader

from d2_seesaw.data import (
    ClassPixels,
    LabelReader,
    RandomSampling,
    SemanticDatasetMapper,
    build_train_loader,
    load_dataset,
)
from d2_seesaw.evaluation import LongTailSemSegEvaluator

dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(load_dataset)(names="cityscapes_fine_sem_seg_train"),
        sampling=L(RandomSampling)(),
        mapper=L(SemanticDatasetMapper)(
            is_train=True,
            augmentations=[
                L(T.ResizeShortestEdge)(
                    short_edge_length=(512, 2048), sample_style="range", max_size=4096
                ),
                L(T.RandomCrop)(crop_type="absolute", crop_size=(768, 768)),
                L(T.RandomFlip)(horizontal=True),
            ],
            image_format="RGB",
        ),
        total_batch_size=6,
        num_workers=6,
    ),
    test=L(build_detection_test_loader)(
        dataset=L(load_dataset)(names="cityscapes_fine_sem_seg_val"),
        mapper=L(SemanticDatasetMapper)(is_train=False, augmentations=[], image_format="RGB"),
        num_workers=6,
    ),
    evaluator=L(LongTailSemSegEvaluator)(
        dataset_name="${..test.dataset.names}",
        output_dir="${train.output_dir}/inference",
        read_labels=L(LabelReader)(),
        # Frequency groups by the pixels of the training data. null uses the test data instead.
        pixel_counts=L(ClassPixels)(names="${...train.dataset.names}"),
    ),
)
