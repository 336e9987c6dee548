"""Mask head whose last layer is given rather than fixed."""

from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from torch import nn

from d2_seesaw.layers import LayerFactory


class MaskHeadWithPredictor(MaskRCNNConvUpsampleHead):
    """Detectron2's convolution and up-sampling mask head with a predictor of one's own.

    With ``normed_mask_predictor()`` it is the "Norm Mask" of the Seesaw Loss paper (section 4.3).
    The names and shapes of the weights are those of the base class whatever the predictor, so a
    checkpoint does not tell which one it was trained with: the config does.

    Args:
        input_shape: shape of one RoI's feature.
        predictor: a module from ``conv_dims[-1]`` channels to ``num_classes``, or a function that
            builds one from these two numbers.
        num_classes: foreground classes, 1 for class-agnostic masks.
        conv_dims: channels of the convolutions and, last, of the up-sampling layer.
        head_options: the other arguments of ``MaskRCNNConvUpsampleHead``.

    Raises:
        ValueError: a predictor whose channels do not fit.
    """

    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        predictor: nn.Module | LayerFactory,
        num_classes: int,
        conv_dims: list[int],
        **head_options: Any,
    ) -> None:
        super().__init__(input_shape, num_classes=num_classes, conv_dims=conv_dims, **head_options)
        if not isinstance(predictor, nn.Module):
            predictor = predictor(conv_dims[-1], num_classes)
        given = [getattr(predictor, name, None) for name in ("in_channels", "out_channels")]
        needed = [conv_dims[-1], num_classes]
        if any(g is not None and g != n for g, n in zip(given, needed, strict=True)):
            raise ValueError(
                f"predictor maps {given[0]} channels to {given[1]}, but the mask head needs "
                f"{needed[0]} channels to {needed[1]} classes"
            )
        self.predictor = predictor
