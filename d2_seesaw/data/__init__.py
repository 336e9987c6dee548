"""Data: registration, long-tail statistics, sampling, loading, augmentation."""

import d2_seesaw._requires_detectron2
import d2_seesaw.data.quickstart  # noqa: F401  (registers the generated data)
from d2_seesaw.data.catalog import (
    check_dataset_files,
    datasets_root,
    load_dataset,
    load_longtail_json,
    register_longtail_instances,
)
from d2_seesaw.data.check import DatasetCheck, check_dataset
from d2_seesaw.data.class_counts import training_class_counts
from d2_seesaw.data.class_sampling import (
    ClassBalancedSampling,
    ClassSampling,
    ProgressivelyBalancedSampling,
    SquareRootSampling,
)
from d2_seesaw.data.classification.image_lists import read_image_list, register_image_list
from d2_seesaw.data.classification.mapper import ClassificationDatasetMapper
from d2_seesaw.data.frequency import category_image_counts, frequency_group, group_sizes
from d2_seesaw.data.instaboost import InstaBoost
from d2_seesaw.data.loader import TrainLoader, build_train_loader
from d2_seesaw.data.mappers import (
    BitMaskDatasetMapper,
    InstanceAugmentation,
    InstanceAugmentationDatasetMapper,
    InstanceDatasetMapper,
    SemanticDatasetMapper,
)
from d2_seesaw.data.sampling import (
    RandomSampling,
    RepeatFactorSampling,
    Sampling,
    SemanticRepeatFactorSampling,
)
from d2_seesaw.data.semantic.folders import FrameSplit, register_semantic_folder
from d2_seesaw.data.semantic.label_maps import read_labels
from d2_seesaw.data.semantic.pixel_counts import ClassPixels, LabelReader, class_pixel_counts
from d2_seesaw.data.semantic.stuff_maps import register_label_maps
from d2_seesaw.data.semantic.synthia import register_synthia_rand_cityscapes, register_synthia_seqs
from d2_seesaw.data.transforms import (
    EnlargeToCrop,
    OpenCVResize,
    OpenCVResizeShortestEdge,
    OpenCVResizeTransform,
    PillowColorJitter,
)

__all__ = [
    "BitMaskDatasetMapper",
    "ClassBalancedSampling",
    "ClassPixels",
    "ClassSampling",
    "ClassificationDatasetMapper",
    "DatasetCheck",
    "EnlargeToCrop",
    "FrameSplit",
    "InstaBoost",
    "InstanceAugmentation",
    "InstanceAugmentationDatasetMapper",
    "InstanceDatasetMapper",
    "LabelReader",
    "OpenCVResize",
    "OpenCVResizeShortestEdge",
    "OpenCVResizeTransform",
    "PillowColorJitter",
    "ProgressivelyBalancedSampling",
    "RandomSampling",
    "RepeatFactorSampling",
    "Sampling",
    "SemanticDatasetMapper",
    "SemanticRepeatFactorSampling",
    "SquareRootSampling",
    "TrainLoader",
    "build_train_loader",
    "category_image_counts",
    "check_dataset",
    "check_dataset_files",
    "class_pixel_counts",
    "datasets_root",
    "frequency_group",
    "group_sizes",
    "load_dataset",
    "load_longtail_json",
    "read_image_list",
    "read_labels",
    "register_image_list",
    "register_label_maps",
    "register_longtail_instances",
    "register_semantic_folder",
    "register_synthia_rand_cityscapes",
    "register_synthia_seqs",
    "training_class_counts",
]
