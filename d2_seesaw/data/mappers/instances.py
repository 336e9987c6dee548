"""Dataset mappers of instances: mixed mask formats, masks as in mmdet, instance augmentations.

Shapes in this module:
    H, W: height and width of the image after the augmentations
"""

import copy
from collections.abc import Sequence
from typing import Any, Protocol

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import annotations_to_instances
from detectron2.structures import BoxMode

from d2_seesaw.data.mappers.targets import bit_masks, boxes_and_classes, polygon_masks
from d2_seesaw.data.pixel_layout import channels_first
from d2_seesaw.data.rle import encode_segmentation

_EMPTY = 1e-5
"""Width or height of a box, in pixels, up to which Detectron2 takes it as empty."""


class InstanceAugmentation(Protocol):
    """Augmentation of an image together with its annotations, such as ``InstaBoost``."""

    def __call__(
        self, image: np.ndarray, annotations: Sequence[dict[str, Any]], rng: np.random.Generator
    ) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Augment an ``(H, W, 3)`` uint8 image and its annotations in Detectron2's format."""
        ...


class InstanceDatasetMapper(DatasetMapper):
    """Detectron2's mapper in less time, also for data with run-length encoded masks (RLE).

    Detectron2 does not support RLE if ``instance_mask_format`` is the default, ``"polygon"``. Here,
    images with an RLE get ``BitMasks``, and all other images keep ``PolygonMasks``, which take less
    memory. Arguments are those of ``DatasetMapper``.

    Boxes and polygons of an image are transformed together. Integer coordinates are transformed as
    real numbers; Detectron2 cuts off the fractions of resized ones.
    """

    @configurable
    def __init__(self, is_train: bool, **options: Any) -> None:
        super().__init__(is_train, **options)
        self.augmentations = _PlanesLast(self.augmentations.augs)

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Map a dict in Detectron2's format to a model input; the dict is not changed."""
        return DatasetMapper.__call__(self, _Copied(dataset_dict))

    def _transform_annotations(
        self, dataset_dict: dict[str, Any], transforms: T.TransformList, image_shape: Any
    ) -> None:
        kept = {"bbox", "bbox_mode", "category_id", "iscrowd"}
        kept |= {"segmentation"} if self.use_instance_mask else set()
        kept |= {"keypoints"} if self.use_keypoint else set()
        annotations = [
            {key: value for key, value in annotation.items() if key in kept}
            for annotation in dataset_dict.pop("annotations")
            if not annotation.get("iscrowd", 0)
        ]
        instances = self._instances(annotations, dataset_dict, transforms, image_shape)
        if instances is None:
            dataset_dict["annotations"] = copy.deepcopy(annotations)
            self._transform_each(dataset_dict, transforms, image_shape)
            return
        if self.recompute_boxes:
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        # Masks that are empty have been left out. Selection copies all masks.
        not_empty = instances.gt_boxes.nonempty(threshold=_EMPTY)
        dataset_dict["instances"] = instances if not_empty.all() else instances[not_empty]

    def _instances(
        self,
        annotations: list[dict[str, Any]],
        record: dict[str, Any],
        transforms: T.TransformList,
        image_shape: Any,
    ) -> Any:
        """Transform all annotations at once; return None where Detectron2 has to do one by one."""
        masks = None
        if any("segmentation" in annotation for annotation in annotations):
            masks = polygon_masks(annotations, transforms)
            if masks is None or self.instance_mask_format != "polygon":
                return None
        instances = boxes_and_classes(annotations, transforms, image_shape)
        if instances is not None and masks is not None:
            instances.gt_masks = masks
        return instances

    def _transform_each(
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

    def _instances(
        self,
        annotations: list[dict[str, Any]],
        record: dict[str, Any],
        transforms: T.TransformList,
        image_shape: Any,
    ) -> Any:
        annotations[:] = [a for a in annotations if _has_a_pixel(a)]
        size = record["height"], record["width"]
        encoded = ["segmentation" in annotation for annotation in annotations]
        for annotation in annotations:
            if "segmentation" in annotation:
                annotation["segmentation"] = encode_segmentation(annotation["segmentation"], size)
        instances = boxes_and_classes(annotations, transforms, image_shape)
        if not any(encoded):
            return instances
        masks = None
        if all(encoded):
            masks = bit_masks([a["segmentation"] for a in annotations], transforms, size)
        if instances is None or masks is None:
            return None
        instances.gt_masks, filled = masks
        return instances if filled.all() else instances[torch.from_numpy(filled)]  # pyright: ignore[reportArgumentType]


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


class _Copied(dict[str, Any]):
    """Record whose deep copy shares what the mappers replace and do not change: annotations."""

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        shared = {"annotations": self["annotations"]} if "annotations" in self else {}
        others = {key: value for key, value in self.items() if key not in shared}
        return {**copy.deepcopy(others, memo), **shared}


class _PlanesLast(T.AugmentationList):
    """Augmentations after which the image is stored plane by plane.

    Detectron2's mapper then needs no copy to get ``(3, H, W)``. NumPy's takes as long as resizing.
    """

    def __call__(self, aug_input: Any) -> T.TransformList:
        transforms = super().__call__(aug_input)
        aug_input.image = channels_first(aug_input.image).transpose(1, 2, 0)
        return transforms


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
