"""Records of semantic segmentation as inputs of a model.

Shapes in this module:
    H, W: size of the image after the augmentations
"""

import copy
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import detection_utils
from detectron2.data import transforms as T

from d2_seesaw.data.semantic.label_maps import read_labels

logger = logging.getLogger(__name__)


class SemanticDatasetMapper:
    """Detectron2's ``DatasetMapper`` for semantic segmentation, with the labels of any label map.

    Detectron2's mapper reads label maps as grey pictures, which is right only where the files hold
    the classes themselves in 8 bits; here they are what :func:`~d2_seesaw.data.read_labels` reads.

    Of Detectron2's augmentations, ``RandomRotation`` and ``RandomExtent`` fill the corners they
    open with class 0; ``FixedSizeCrop`` pads with its ``seg_pad_value``, 255 by default.
    ``RandomCrop`` takes all of an image that is smaller than the crop.

    Args:
        is_train: Read and augment the labels, too.
        augmentations: Applied to the image and the labels, in this order.
        image_format: Of the model, ``"BGR"`` or ``"RGB"``.
        ignore_label: Stands for pixels without a class.
        num_classes: Refuse label maps with other classes, if given.
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
        """Make a model input of a record, which stays as it is.

        Args:
            record: with ``file_name``, ``height`` and ``width``, and for training
                ``sem_seg_file_name``.

        Returns:
            The record's entries, those of instances aside, with ``image``, a ``(3, H, W)`` uint8
            tensor, and in training ``sem_seg``, a ``(H, W)`` int64 tensor.

        Raises:
            ValueError: as :func:`~d2_seesaw.data.read_labels`.
        """
        record = copy.deepcopy(record)
        for key in ("annotations", "segments_info"):
            record.pop(key, None)
        image = detection_utils.read_image(record["file_name"], format=self.image_format)
        detection_utils.check_image_size(record, image)  # sets height and width if they are missing
        labels = None
        if self.is_train:
            labels = read_labels(record, self.ignore_label, num_classes=self.num_classes)

        augmented: Any = T.AugInput(image, sem_seg=labels)  # its image is annotated as optional
        self.augmentations(augmented)
        channels_first = augmented.image.transpose(2, 0, 1)
        record["image"] = torch.as_tensor(np.ascontiguousarray(channels_first))
        if augmented.sem_seg is not None:
            record["sem_seg"] = torch.as_tensor(augmented.sem_seg.astype(np.int64))
        return record
