"""Mapper of labeled images, with torchvision's transforms."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import detection_utils
from PIL import Image
from torchvision.transforms import Compose

from d2_seesaw.data.classification.image_lists import label_of

Transform = Callable[[Image.Image], Image.Image]
"""Maps a Pillow image to another, as the geometric and color transforms of torchvision do."""


class ClassificationDatasetMapper:
    """Mapper that reads an image, transforms it and keeps its label.

    Images are read as elsewhere in Detectron2, rotated by their EXIF orientation. Training and
    evaluation differ in the transforms alone. Random transforms draw from PyTorch's generator,
    which the training loader seeds for each image.

    Args:
        transforms: transforms of Pillow images, applied in order, such as
            ``torchvision.transforms.RandomResizedCrop(224)``. All images of a batch must have one
            size at the end.
        image_format: channel order, ``"RGB"`` or ``"BGR"``.
    """

    def __init__(self, transforms: Sequence[Transform], *, image_format: str = "RGB") -> None:
        self.transforms = Compose(list(transforms))
        self.image_format = image_format

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Map a record of a registered image list to a model input.

        Returns:
            ``image``, ``(3, H, W)`` uint8; ``label``, a class; and ``file_name``, ``image_id``,
            ``height`` and ``width`` of the file.

        Raises:
            ValueError: the record does not have one label, or a transform returned no image.
        """
        image: Any = detection_utils.read_image(record["file_name"], "RGB")
        height, width = image.shape[:2]
        transformed = self.transforms(Image.fromarray(image))
        if not isinstance(transformed, Image.Image):
            raise ValueError(
                "the transforms of dataloader.*.mapper must return a Pillow image, got "
                f"{type(transformed).__name__}: leave out ToTensor and Normalize, which the model "
                "does itself"
            )
        pixels = np.array(transformed)
        if self.image_format == "BGR":
            pixels = pixels[:, :, ::-1]
        return {
            "image": torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))),
            "label": label_of(record),
            "file_name": record["file_name"],
            "image_id": record["image_id"],
            "height": height,
            "width": width,
        }
