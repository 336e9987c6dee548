"""Detectron2's heads for semantic segmentation with a given pixel loss.

A pixel loss is a module called as ``loss(logits, labels)`` with ``(N, C, H, W)`` logits and
``(N, H, W)`` labels in ``[0, C)`` or its ignored label. It returns a scalar. An example is
``torch.nn.CrossEntropyLoss(ignore_index=255)``.

Shapes in this module:
    N: images
    C: classes
    H, W: height and width of the padded images
    h, w: height and width of the head's output, smaller by ``common_stride``
"""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from detectron2.projects.deeplab import DeepLabV3PlusHead
from torch import Tensor, nn
from torch.nn import functional as F


class LossDrivenSemSegFPNHead(SemSegFPNHead):
    """Detectron2's ``SemSegFPNHead``, the semantic branch of Panoptic FPN, with a given loss.

    With ``torch.nn.CrossEntropyLoss`` the results equal those of the base class exactly.

    Args:
        input_shape: shapes (channels and stride) of the input features, by name.
        loss: pixel loss; see this module.
        num_classes: C.
        ignore_value: label of pixels to ignore; also pads the labels of a batch.
        head_options: other arguments of ``SemSegFPNHead``.

    Raises:
        ValueError: the loss has another number of classes or ignored label.
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
            # As a keyword: in a LazyConfig it is a DictConfig, which detectron2's configurable
            # would take for a yacs config if it were positional.
            input_shape=input_shape,
            num_classes=num_classes,
            ignore_value=ignore_value,
            **head_options,
        )
        self.loss = loss

    def losses(self, predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Compute ``loss_sem_seg`` from ``(N, C, h, w)`` logits and ``(N, H, W)`` labels."""
        loss = _full_size_loss(self.loss, predictions, targets, self.common_stride)
        return {"loss_sem_seg": loss * self.loss_weight}


class LossDrivenDeepLabV3PlusHead(DeepLabV3PlusHead):
    """Detectron2's ``DeepLabV3PlusHead`` with a given loss.

    With ``torch.nn.CrossEntropyLoss`` the results equal those of the base class exactly. Under
    autocast it is more precise, because it upsamples the logits in float32.

    Args:
        input_shape: shapes (channels and stride) of the input features, by name.
        loss: pixel loss; see this module. Replaces ``loss_type``.
        num_classes: C.
        ignore_value: label of pixels to ignore; also pads the labels of a batch.
        train_size: height and width of the training crops, over which the image pooling averages.
            In inference, padded images must then be multiples of the crop. By default it averages
            over the whole image, whatever its size.
        head_options: other arguments of ``DeepLabV3PlusHead``.

    Raises:
        ValueError: the loss has another number of classes or ignored label, or there is a
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
            input_shape=input_shape,  # as a keyword, as above
            num_classes=num_classes,
            ignore_value=ignore_value,
            train_size=train_size,
            **head_options,
        )
        self.loss = loss

    def losses(self, predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Compute ``loss_sem_seg`` from ``(N, C, h, w)`` logits and ``(N, H, W)`` labels."""
        loss = _full_size_loss(self.loss, predictions, targets, self.common_stride)
        return {"loss_sem_seg": loss * self.loss_weight}


class CornerAlignedDeepLabV3PlusHead(LossDrivenDeepLabV3PlusHead):
    """DeepLab v3+ head as the authors of Recall Loss build it.

    Source: the ``DeepLab`` of https://github.com/PotatoTian/recall-semseg. The convolutions are
    those of Detectron2's head, with these differences:

    - Bilinear interpolation aligns the corner pixels.
    - The image pooling has a norm, so that training with batch norm needs at least two images per
      GPU.
    - The two 3 x 3 convolutions of the decoder are followed by dropout.
    - All convolutions are initialized by Kaiming's normal distribution (fan in).

    In training, the logits are interpolated to the size of the labels. In inference, the head does
    not know the size of the image and assumes that its sides are multiples of ``common_stride``.

    Args:
        input_shape: shapes (channels and stride) of the input features, by name.
        decoder_dropout: probabilities after the first and the second convolution of the decoder.
        norm: as in ``detectron2.layers.get_norm``.
        options: other arguments of :class:`LossDrivenDeepLabV3PlusHead`.

    Raises:
        ValueError: see :class:`LossDrivenDeepLabV3PlusHead`.
    """

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        decoder_dropout: tuple[float, float] = (0.5, 0.1),
        norm: Any = "BN",
        **options: Any,
    ) -> None:
        super().__init__(input_shape=input_shape, norm=norm, **options)
        for stage in self._decoder_stages():
            if stage["fuse_conv"] is None:
                pool, conv = stage["project_conv"].convs[-1]
                conv = Conv2d(
                    conv.in_channels,
                    conv.out_channels,
                    kernel_size=1,
                    bias=norm == "",
                    norm=get_norm(norm, conv.out_channels),
                    activation=F.relu,
                )
                stage["project_conv"].convs[-1] = nn.Sequential(pool, conv)
            else:
                first, second = map(nn.Dropout, decoder_dropout)
                conv1, conv2 = stage["fuse_conv"]
                stage["fuse_conv"] = nn.Sequential(conv1, first, conv2, second)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        bound = self.predictor.in_channels**-0.5  # PyTorch's default, which the authors keep
        nn.init.uniform_(self.predictor.bias, -bound, bound)

    def _decoder_stages(self) -> list[Any]:
        """Return the stages of the decoder from low to high resolution; the first is the ASPP."""
        return [self.decoder[name] for name in self.in_features[::-1]]

    def layers(self, features: dict[str, Tensor]) -> Tensor:
        """Compute ``(N, C, h, w)`` logits from the features of the backbone."""
        aspp, *stages = self._decoder_stages()
        _, *names = self.in_features[::-1]
        y = aspp["project_conv"](features[self.in_features[-1]])
        for name, stage in zip(names, stages, strict=True):
            projected = stage["project_conv"](features[name])
            y = _align_corners(y, projected.shape[-2:])
            y = stage["fuse_conv"](torch.cat([projected, y], dim=1))
        return self.predictor(y)

    def forward(
        self, features: dict[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Return the losses in training, and ``(N, C, H, W)`` logits in inference.

        Args:
            features: features of the backbone, by name.
            targets: ``(N, H, W)`` labels; needed in training.

        Raises:
            ValueError: there are no labels in training.
        """
        logits = self.layers(features)
        if self.training:
            if targets is None:
                raise ValueError("the head needs the labels of the images in training, got None")
            return None, self.losses(logits, targets)
        size = [side * self.common_stride for side in logits.shape[-2:]]
        return _align_corners(logits, size), {}

    def losses(self, predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Compute ``loss_sem_seg`` from ``(N, C, h, w)`` logits and ``(N, H, W)`` labels."""
        with torch.autocast(predictions.device.type, enabled=False):
            logits = _align_corners(predictions.float(), targets.shape[-2:])
            return {"loss_sem_seg": self.loss(logits, targets) * self.loss_weight}


def _align_corners(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


def _check_loss(loss: nn.Module, num_classes: int, ignore_value: int) -> None:
    for loss_name, head_name, expected in (
        ("num_classes", "num_classes", num_classes),
        ("ignore_index", "ignore_value", ignore_value),
        ("ignore_label", "ignore_value", ignore_value),  # the name in Detectron2's DeepLabCE
    ):
        given = getattr(loss, loss_name, expected)
        if given != expected:
            raise ValueError(
                f"{loss_name} of {type(loss).__name__} is {given}, {head_name} of the head is "
                f"{expected}: they must be equal"
            )


def _full_size_loss(loss: nn.Module, logits: Tensor, labels: Tensor, stride: int) -> Tensor:
    with torch.autocast(logits.device.type, enabled=False):
        logits = F.interpolate(
            logits.float(), scale_factor=stride, mode="bilinear", align_corners=False
        )
        # Strided convolutions round up. The excess is cropped, as in inference.
        height, width = labels.shape[-2:]
        return loss(logits[..., :height, :width], labels)
