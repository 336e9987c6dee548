"""Dataset mapper of label maps.

Shapes in this module:
    H, W: height and width of the image after the augmentations
"""

import copy
import logging
from collections.abc import Sequence
from typing import Any

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.data import detection_utils

from d2_seesaw.data.semantic.label_maps import read_labels

logger = logging.getLogger(__name__)


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
