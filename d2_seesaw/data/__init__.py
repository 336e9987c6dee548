"""Data: registration, long-tail statistics, sampling, loading, augmentation, generated sets."""

from d2_seesaw.data.datasets import (
    check_dataset_files,
    datasets_root,
    load_dataset,
    register_lvis_format,
)
from d2_seesaw.data.frequency import category_image_counts, frequency_group, group_sizes
from d2_seesaw.data.instaboost import InstaBoost
from d2_seesaw.data.instance_mapper import InstanceAugmentation, InstanceAugmentationDatasetMapper
from d2_seesaw.data.loader import TrainLoader, build_train_loader
from d2_seesaw.data.sampling import RandomSampling, RepeatFactorSampling, Sampling
from d2_seesaw.data.transforms import OpenCVResizeShortestEdge, OpenCVResizeTransform

__all__ = [
    "InstaBoost",
    "InstanceAugmentation",
    "InstanceAugmentationDatasetMapper",
    "OpenCVResizeShortestEdge",
    "OpenCVResizeTransform",
    "RandomSampling",
    "RepeatFactorSampling",
    "Sampling",
    "TrainLoader",
    "build_train_loader",
    "category_image_counts",
    "check_dataset_files",
    "datasets_root",
    "frequency_group",
    "group_sizes",
    "load_dataset",
    "register_lvis_format",
]
