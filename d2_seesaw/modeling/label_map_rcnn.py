"""Meta-architecture that passes the label maps of training images to the ROI heads."""

from typing import Any

import torch
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.structures import ImageList
from torch import Tensor


class LabeledImageList(ImageList):
    """Images with a label map each.

    Args:
        tensor: ``(N, 3, H, W)`` padded images.
        image_sizes: height and width of each image before padding.
        sem_seg: ``(N, H, W)`` int64 classes of pixels; the padding has the ignored label.
    """

    def __init__(self, tensor: Tensor, image_sizes: list[tuple[int, int]], sem_seg: Tensor) -> None:
        super().__init__(tensor, image_sizes)
        self.sem_seg = sem_seg


class LabelMapRCNN(GeneralizedRCNN):
    """``GeneralizedRCNN`` for the semantic branch of :class:`HTCROIHeads`.

    Each training input needs ``sem_seg``, an ``(h, w)`` integer map of classes. Detectron2's
    mappers set it from the record's ``sem_seg_file_name``, which
    :func:`~d2_seesaw.data.register_label_maps` adds to a dataset. Without a semantic branch
    (``semantic_head`` is None) and in inference it is a ``GeneralizedRCNN``.
    """

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalize and pad the images; in training, add their label maps.

        Raises:
            ValueError: in training, an input has no label map, or one with other classes.
        """
        images = super().preprocess_image(batched_inputs)
        head: Any = getattr(self.roi_heads, "semantic_head", None)
        if head is None or not self.training:
            return images
        maps = [_label_map(x, head.num_classes, head.ignore_value) for x in batched_inputs]
        padded = ImageList.from_tensors(
            [labels.to(self.device) for labels in maps],
            self.backbone.size_divisibility,
            head.ignore_value,
            self.backbone.padding_constraints,
        )
        return LabeledImageList(images.tensor, images.image_sizes, padded.tensor)


def _label_map(image: dict[str, Any], num_classes: int, ignore_value: int) -> Tensor:
    """Return the checked label map of an input. It is checked before it is copied to a GPU."""
    name = image.get("file_name", "an image")
    labels = image.get("sem_seg")
    if labels is None:
        raise ValueError(
            f"{name} has no label map (sem_seg), which the semantic branch needs: use a dataset of "
            "d2_seesaw.data.register_label_maps, such as coco_2017_train_stuffthingmaps, or leave "
            "the branch out with model.roi_heads.semantic_head=null"
        )
    size = tuple(image["image"].shape[-2:])
    if tuple(labels.shape) != size:
        raise ValueError(f"the label map of {name} is {tuple(labels.shape)}, its image is {size}")
    wrong = ((labels < 0) | (labels >= num_classes)) & (labels != ignore_value)
    if wrong.any():
        found = torch.unique(labels[wrong])[:5].tolist()
        raise ValueError(
            f"the label map of {name} contains {', '.join(map(str, found))}; expected classes in "
            f"[0, {num_classes - 1}] or {ignore_value} for ignored pixels, as an 8-bit grayscale "
            "image"
        )
    return labels.long()
