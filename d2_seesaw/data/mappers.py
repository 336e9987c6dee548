"""Dataset mappers for mixed mask formats, instance augmentations and label maps.

Shapes in this module:
    H, W: height and width of the image after the augmentations
"""

import copy
import logging
from collections.abc import Sequence
from typing import Any, Protocol

import detectron2.data.transforms as T
import numpy as np
import pycocotools.mask as mask_utils
import torch
from detectron2.config import configurable
from detectron2.data import DatasetMapper, detection_utils
from detectron2.data.detection_utils import annotations_to_instances
from detectron2.structures import BoxMode

from d2_seesaw.data.semantic.label_maps import read_labels

logger = logging.getLogger(__name__)


class InstanceAugmentation(Protocol):
    """Augmentation of an image together with its annotations, such as ``InstaBoost``."""

    def __call__(
        self, image: np.ndarray, annotations: Sequence[dict[str, Any]], rng: np.random.Generator
    ) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Augment an ``(H, W, 3)`` uint8 image and its annotations in Detectron2's format."""
        ...


class InstanceDatasetMapper(DatasetMapper):
    """Detectron2's mapper for data in which some masks are run-length encoded (RLE).

    Detectron2 does not support RLE if ``instance_mask_format`` is the default, ``"polygon"``. Here,
    images with an RLE get ``BitMasks``, and all other images keep ``PolygonMasks``, which take less
    memory. Arguments are those of ``DatasetMapper``.
    """

    def _transform_annotations(
        self, dataset_dict: dict[str, Any], transforms: T.TransformList, image_shape: Any
    ) -> None:
        mapper = self
        if self.instance_mask_format == "polygon" and _any_encoding(dataset_dict["annotations"]):
            mapper = copy.copy(self)  # other threads may use self
            mapper.instance_mask_format = "bitmask"
        DatasetMapper._transform_annotations(mapper, dataset_dict, transforms, image_shape)


class BitMaskDatasetMapper(InstanceDatasetMapper):
    """Mapper that rasterizes polygons before the image is resized, as in mmdet.

    All images get ``BitMasks``, resized like labels. Detectron2 resizes polygons and rasterizes
    them in the box of each RoI. This takes more memory: 1 byte for each pixel of each object.
    Objects of less than one pixel in width or height are left out, as in mmdet. Arguments are those
    of ``DatasetMapper``.
    """

    def _transform_annotations(
        self, dataset_dict: dict[str, Any], transforms: T.TransformList, image_shape: Any
    ) -> None:
        size = dataset_dict["height"], dataset_dict["width"]
        annotations = [a for a in dataset_dict["annotations"] if _has_a_pixel(a)]
        for annotation in annotations:
            polygons = annotation.get("segmentation")
            if isinstance(polygons, list):
                encodings = mask_utils.frPyObjects(polygons, *size)
                annotation["segmentation"] = mask_utils.merge(encodings)
        dataset_dict["annotations"] = annotations
        super()._transform_annotations(dataset_dict, transforms, image_shape)


class InstanceAugmentationDatasetMapper(InstanceDatasetMapper):
    """Instance mapper with an augmentation of image and annotations, and with retries.

    Detectron2's augmentations see only the image. ``instance_augmentation`` gets the original image
    and its annotations, before ``augmentations``. If no instance is left after both, for example
    after a crop, both are applied again with new random numbers.

    Only training images with at least one instance that is not a crowd are augmented this way. All
    random numbers derive from NumPy's global generator, which the loader seeds for each image.

    Args:
        is_train: produce training inputs.
        instance_augmentation: for example ``InstaBoost()``; None keeps the instances.
        max_tries: maximum number of draws per image; the last one is used in any case.
        options: other arguments of ``DatasetMapper``.

    Raises:
        ValueError: ``max_tries`` is less than 1, or there are precomputed proposals or semantic
            labels, which an instance augmentation does not transform.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        instance_augmentation: InstanceAugmentation | None = None,
        max_tries: int = 10,
        **options: Any,
    ) -> None:
        super().__init__(is_train, **options)
        if max_tries < 1:
            raise ValueError(f"max_tries must be at least 1, got {max_tries}")
        if instance_augmentation is not None and self.proposal_topk is not None:
            raise ValueError("instance_augmentation does not support precomputed proposals")
        self.instance_augmentation = instance_augmentation
        self.max_tries = max_tries

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Map a dict in Detectron2's format to a model input; the dict is not changed."""
        annotations = dataset_dict.get("annotations", ())
        if not self.is_train or not _any_instance(annotations):
            return super().__call__(dataset_dict)
        if self.instance_augmentation is not None and "sem_seg_file_name" in dataset_dict:
            raise ValueError("instance_augmentation does not support semantic labels")
        result = self._draw(dataset_dict)
        for _ in range(self.max_tries - 1):
            if len(result["instances"]):
                break
            result = self._draw(dataset_dict)
        return result

    def _draw(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        # Detectron2 reads the image, applies self.augmentations and transforms the annotations in
        # one method. A copy of the mapper, whose augmentations hold the annotations of this image,
        # intervenes in between. Other threads may use self.
        mapper = copy.copy(self)
        mapper.augmentations = _InstancesFirst(
            self.instance_augmentation,
            self.augmentations,
            copy.deepcopy(dataset_dict["annotations"]),
        )
        return DatasetMapper.__call__(mapper, {**dataset_dict, "annotations": []})

    def _transform_annotations(
        self, dataset_dict: dict[str, Any], transforms: T.TransformList, image_shape: Any
    ) -> None:
        if isinstance(transforms, _TransformsOfInstances):
            dataset_dict["annotations"] = transforms.annotations
        if _any_instance(dataset_dict["annotations"]):
            super()._transform_annotations(dataset_dict, transforms, image_shape)
        else:  # Detectron2 cannot recompute boxes without instances
            del dataset_dict["annotations"]
            dataset_dict["instances"] = annotations_to_instances([], image_shape)


class _TransformsOfInstances(T.TransformList):
    """Transforms of an image, with the annotations to apply them to."""

    def __init__(self, transforms: list[T.Transform], annotations: list[dict[str, Any]]) -> None:
        super().__init__(transforms)
        self.annotations = annotations


class _InstancesFirst:
    """Augmentations of one image that apply the instance augmentation first."""

    def __init__(
        self,
        instance_augmentation: InstanceAugmentation | None,
        augmentations: T.AugmentationList,
        annotations: list[dict[str, Any]],
    ) -> None:
        self.instance_augmentation = instance_augmentation
        self.augmentations = augmentations
        self.annotations = annotations

    def __call__(self, aug_input: Any) -> _TransformsOfInstances:
        annotations = self.annotations
        if self.instance_augmentation is not None:
            rng = np.random.default_rng(np.random.randint(2**32, size=4, dtype=np.uint32))
            aug_input.image, annotations = self.instance_augmentation(
                aug_input.image, annotations, rng
            )
        transforms = self.augmentations(aug_input)
        return _TransformsOfInstances(transforms.transforms, annotations)


def _any_instance(annotations: Sequence[dict[str, Any]]) -> bool:
    return any(not annotation.get("iscrowd", 0) for annotation in annotations)


def _has_a_pixel(annotation: dict[str, Any]) -> bool:
    box: Any = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYWH_ABS)
    return min(box[2:]) >= 1


def _any_encoding(annotations: Sequence[dict[str, Any]]) -> bool:
    """Return whether an annotation that is not a crowd has a run-length encoding."""
    return any(
        isinstance(annotation.get("segmentation"), dict) and not annotation.get("iscrowd", 0)
        for annotation in annotations
    )


class SemanticDatasetMapper:
    """Detectron2's ``DatasetMapper`` for semantic segmentation, with any format of label maps.

    Detectron2's mapper reads label maps as grayscale images, which requires files with 8-bit
    classes. This one reads them with :func:`~d2_seesaw.data.read_labels`.

    Of Detectron2's augmentations, ``RandomRotation`` and ``RandomExtent`` fill new corners with
    class 0; ``FixedSizeCrop`` pads with its ``seg_pad_value``, 255 by default. ``RandomCrop``
    returns the whole image if it is smaller than the crop.

    Args:
        is_train: also read and augment the labels.
        augmentations: applied to image and labels, in this order.
        image_format: the model's format, ``"BGR"`` or ``"RGB"``.
        ignore_label: label of pixels without a class.
        num_classes: if given, label maps with other classes raise an error.
    """

    def __init__(
        self,
        *,
        is_train: bool,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str,
        ignore_label: int = 255,
        num_classes: int | None = None,
    ) -> None:
        self.is_train = is_train
        self.augmentations = T.AugmentationList(list(augmentations))
        self.image_format = image_format
        self.ignore_label = ignore_label
        self.num_classes = num_classes
        mode = "training" if is_train else "inference"
        logger.info("Augmentations used in %s: %s", mode, augmentations)

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Map a record to a model input; the record is not changed.

        Args:
            record: with ``file_name``, ``height`` and ``width``, and for training
                ``sem_seg_file_name``.

        Returns:
            The record's entries without those of instances, with ``image``, a ``(3, H, W)`` uint8
            tensor, and in training ``sem_seg``, an ``(H, W)`` int64 tensor.

        Raises:
            ValueError: see :func:`~d2_seesaw.data.read_labels`.
        """
        record = copy.deepcopy(record)
        for key in ("annotations", "segments_info"):
            record.pop(key, None)
        image = detection_utils.read_image(record["file_name"], format=self.image_format)
        detection_utils.check_image_size(record, image)  # sets height and width if they are missing
        labels = None
        if self.is_train:
            labels = read_labels(record, self.ignore_label, num_classes=self.num_classes)

        augmented: Any = T.AugInput(image, sem_seg=labels)  # Any: its image is typed as optional
        self.augmentations(augmented)
        channels_first = augmented.image.transpose(2, 0, 1)
        record["image"] = torch.as_tensor(np.ascontiguousarray(channels_first))
        if augmented.sem_seg is not None:
            record["sem_seg"] = torch.as_tensor(augmented.sem_seg.astype(np.int64))
        return record
