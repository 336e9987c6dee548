"""A model that tells its ROI heads what is known to be absent from each image.

Detectron2 hands images, features, proposals and targets to the ROI heads. Targets have no room for
a fact about an image: fields of ``Instances`` have one row per object, so an image without objects,
where negatives matter most, could not carry any. Such facts belong to the images, which the model
makes from its inputs in one place: ``preprocess_image``.
"""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.structures import ImageList
from torch import Tensor


class FederatedImageList(ImageList):
    """Images of a federated data set.

    Args:
        tensor: ``(N, 3, H, W)`` padded images.
        image_sizes: height and width of each before padding.
        negative_classes: of each, the classes that were verified to be absent.
    """

    def __init__(
        self,
        tensor: Tensor,
        image_sizes: list[tuple[int, int]],
        negative_classes: Sequence[Tensor],
    ) -> None:
        super().__init__(tensor, image_sizes)
        self.negative_classes = list(negative_classes)


class FederatedRCNN(GeneralizedRCNN):
    """``GeneralizedRCNN`` whose training images carry their verified negatives to the ROI heads.

    They come as ``negative_classes`` of each input, which ``register_longtail_instances`` gives to
    data with any ids. Without, they follow from ``neg_category_ids``, which Detectron2's loader of
    LVIS files reads. These are ids of the annotation file, which there run from 1 without gaps,
    while classes count from 0: class = id - 1, as that loader turns the ids of objects into
    classes.
    """

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalise and pad the images; in training, add what is absent from them.

        Raises:
            ValueError: in training, an input without either, or a class or id out of range.
        """
        images = super().preprocess_image(batched_inputs)
        if not self.training:
            return images
        num_classes: Any = self.roi_heads.num_classes
        negatives = [_classes(x, num_classes).to(self.device) for x in batched_inputs]
        return FederatedImageList(images.tensor, images.image_sizes, negatives)


def _classes(image: dict[str, Any], num_classes: int) -> Tensor:
    name = image.get("file_name", "an image")
    if "negative_classes" in image:
        classes = image["negative_classes"]
        wrong = [c for c in classes if not 0 <= c < num_classes]
        if wrong:
            raise ValueError(
                f"negative_classes of {name} must lie in [0, {num_classes}), got {wrong[0]}"
            )
        return torch.tensor(classes, dtype=torch.int64)
    ids = image.get("neg_category_ids")
    if ids is None:
        raise ValueError(
            f"{name} has no neg_category_ids: a federated loss needs data in LVIS format, which "
            "says what was verified to be absent"
        )
    wrong = [i for i in ids if not 1 <= i <= num_classes]
    if wrong:
        raise ValueError(
            f"neg_category_ids of {name} must lie in [1, {num_classes}] (category ids run from 1), "
            f"got {wrong[0]}"
        )
    return torch.tensor(ids, dtype=torch.int64) - 1
