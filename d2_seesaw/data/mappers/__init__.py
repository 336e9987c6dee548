"""Dataset mappers: from records of a dataset to inputs of a model."""

from d2_seesaw.data.mappers.instances import (
    BitMaskDatasetMapper,
    InstanceAugmentation,
    InstanceAugmentationDatasetMapper,
    InstanceDatasetMapper,
)
from d2_seesaw.data.mappers.semantic import SemanticDatasetMapper

__all__ = [
    "BitMaskDatasetMapper",
    "InstanceAugmentation",
    "InstanceAugmentationDatasetMapper",
    "InstanceDatasetMapper",
    "SemanticDatasetMapper",
]
