"""LVIS v1: multi-scale training, single-scale testing, every image once per epoch."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.data import DatasetMapper, build_detection_test_loader

from d2_seesaw.data import InstanceDatasetMapper, RandomSampling, build_train_loader, load_dataset
from d2_seesaw.evaluation import LongTailLVISEvaluator
from d2_seesaw.report import write_evaluation_report

dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(load_dataset)(names="lvis_v1_train"),
        sampling=L(RandomSampling)(),
        mapper=L(InstanceDatasetMapper)(
            is_train=True,
            augmentations=[
                L(T.ResizeShortestEdge)(
                    short_edge_length=(640, 672, 704, 736, 768, 800),
                    sample_style="choice",
                    max_size=1333,
                ),
                L(T.RandomFlip)(horizontal=True),
            ],
            image_format="${model.input_format}",
            use_instance_mask=True,
        ),
        total_batch_size=16,
        num_workers=4,
    ),
    test=L(build_detection_test_loader)(
        dataset=L(load_dataset)(names="lvis_v1_val", filter_empty=False),
        mapper=L(DatasetMapper)(
            is_train=False,
            augmentations=[L(T.ResizeShortestEdge)(short_edge_length=800, max_size=1333)],
            image_format="${model.input_format}",
        ),
        num_workers=4,
    ),
    evaluator=L(LongTailLVISEvaluator)(
        dataset_name="${..test.dataset.names}",
        max_dets_per_image=300,
        output_dir="${train.output_dir}/inference",
        report=write_evaluation_report,
    ),
)
