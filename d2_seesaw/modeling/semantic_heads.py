"""Detectron2's heads for semantic segmentation, trained with any loss on pixels.

Such a loss is a module called as ``loss(logits, labels)`` with ``(N, C, H, W)`` logits and
``(N, H, W)`` labels in ``[0, C)`` or the label it ignores. It returns a scalar.
``torch.nn.CrossEntropyLoss(ignore_index=255)`` is one.

Shapes in this module:
    N: images
    C: classes
    H, W: size of the padded images
    h, w: size of the head's output, smaller by ``common_stride``
"""

from typing import Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from detectron2.projects.deeplab import DeepLabV3PlusHead
from torch import Tensor, nn
from torch.nn import functional as F


class LossDrivenSemSegFPNHead(SemSegFPNHead):
    """Detectron2's ``SemSegFPNHead``, the semantic branch of Panoptic FPN, with a loss of its own.

    With ``torch.nn.CrossEntropyLoss`` it is the base class, to the last bit.

    Args:
        input_shape: shapes (channels and stride) of the input features, by name.
        loss: the loss on pixels; see this module.
        num_classes: C.
        ignore_value: the label of pixels that do not count; also pads the images of a batch.
        head_options: the other arguments of ``SemSegFPNHead``.

    Raises:
        ValueError: a loss for another number of classes, or that ignores another label.
    """

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        loss: nn.Module,
        num_classes: int,
        ignore_value: int = 255,
        **head_options: Any,
    ) -> None:
        _check_loss(loss, num_classes, ignore_value)
        super().__init__(
            # By name: in a LazyConfig it is a DictConfig, and configurable takes the first of these
            # that it meets by position for a yacs config.
            input_shape=input_shape,
            num_classes=num_classes,
            ignore_value=ignore_value,
            **head_options,
        )
        self.loss = loss

    def losses(self, predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """``{"loss_sem_seg": scalar}`` for ``(N, C, h, w)`` logits and ``(N, H, W)`` labels."""
        loss = _full_size_loss(self.loss, predictions, targets, self.common_stride)
        return {"loss_sem_seg": loss * self.loss_weight}


class LossDrivenDeepLabV3PlusHead(DeepLabV3PlusHead):
    """Detectron2's ``DeepLabV3PlusHead`` with a loss of its own.

    With ``torch.nn.CrossEntropyLoss`` it is the base class, to the last bit. Under autocast it is
    more exact: here the logits are up-sampled in float32.

    Args:
        input_shape: shapes (channels and stride) of the input features, by name.
        loss: the loss on pixels; see this module. It takes the place of ``loss_type``.
        num_classes: C.
        ignore_value: the label of pixels that do not count; also pads the images of a batch.
        train_size: height and width of the training crops, over which the image pooling averages.
            In inference, padded images must then be multiples of the crop. By default it averages
            over the whole image, of any size.
        head_options: the other arguments of ``DeepLabV3PlusHead``.

    Raises:
        ValueError: a loss for another number of classes, or that ignores another label; a
            ``loss_type``.
    """

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        loss: nn.Module,
        num_classes: int,
        ignore_value: int = 255,
        train_size: tuple[int, int] | None = None,
        **head_options: Any,
    ) -> None:
        _check_loss(loss, num_classes, ignore_value)
        if "loss_type" in head_options:
            raise ValueError(
                f"loss_type={head_options['loss_type']!r} would have no effect: pass the loss "
                "itself as loss, such as torch.nn.CrossEntropyLoss(ignore_index=255)"
            )
        super().__init__(
            input_shape=input_shape,  # by name, as above
            num_classes=num_classes,
            ignore_value=ignore_value,
            train_size=train_size,
            **head_options,
        )
        self.loss = loss

    def losses(self, predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """``{"loss_sem_seg": scalar}`` for ``(N, C, h, w)`` logits and ``(N, H, W)`` labels."""
        loss = _full_size_loss(self.loss, predictions, targets, self.common_stride)
        return {"loss_sem_seg": loss * self.loss_weight}


def _check_loss(loss: nn.Module, num_classes: int, ignore_value: int) -> None:
    for of_loss, of_head, expected in (
        ("num_classes", "num_classes", num_classes),
        ("ignore_index", "ignore_value", ignore_value),
        ("ignore_label", "ignore_value", ignore_value),  # its name in Detectron2's DeepLabCE
    ):
        given = getattr(loss, of_loss, expected)
        if given != expected:
            raise ValueError(
                f"{of_loss} of {type(loss).__name__} is {given}, {of_head} of the head is "
                f"{expected}: they must be equal"
            )


def _full_size_loss(loss: nn.Module, logits: Tensor, labels: Tensor, stride: int) -> Tensor:
    with torch.autocast(logits.device.type, enabled=False):
        logits = F.interpolate(
            logits.float(), scale_factor=stride, mode="bilinear", align_corners=False
        )
        # Strided convolutions round up. Inference cuts off what they add, and so does training.
        height, width = labels.shape[-2:]
        return loss(logits[..., :height, :width], labels)
