"""A mask head that up-samples by content-aware re-assembly of features."""

from collections.abc import Callable
from typing import Any, cast

from detectron2.layers import ShapeSpec
from torch import nn

from d2_seesaw.layers import CarafeUpsample
from d2_seesaw.modeling.roi_heads.mask_head import MaskHeadWithPredictor


class CarafeMaskHead(MaskHeadWithPredictor):
    """A mask head with CARAFE in place of the transposed convolution and its ReLU.

    The mask head of the CARAFE paper (https://arxiv.org/abs/1905.02188, section 4.2), and of the
    winner of the LVIS challenge 2020: convolutions, ``upsample``, predictor, with nothing between
    the last two. All else is as in :class:`MaskHeadWithPredictor`. Weights have the names of its
    own but for ``upsample.*``, which stands where ``deconv.*`` was.

    Args:
        input_shape: shape of one RoI's feature.
        conv_dims: channels of the convolutions and, last, of the up-sampling layer. As CARAFE keeps
            the number of channels, the last two are equal.
        upsample: a module that keeps the number of channels, or a function that builds one from it.
        head_options: the other arguments of :class:`MaskHeadWithPredictor`.

    Raises:
        ValueError: channels that do not fit.
    """

    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        conv_dims: list[int],
        upsample: nn.Module | Callable[[int], nn.Module] = CarafeUpsample,
        **head_options: Any,
    ) -> None:
        super().__init__(input_shape, conv_dims=conv_dims, **head_options)
        *_, channels, upsampled = [cast("int", input_shape.channels), *conv_dims]
        if upsampled != channels:
            raise ValueError(
                f"CARAFE keeps the {channels} channels it is given, but conv_dims wants "
                f"{upsampled} after it: make the last two of {conv_dims} equal"
            )
        if not isinstance(upsample, nn.Module):
            upsample = upsample(channels)
        given = getattr(upsample, "in_channels", channels)
        if given != channels:
            raise ValueError(f"upsample takes {given} channels, but is given {channels}")
        # The layers of a mask head run in the order in which they were added.
        predictor = self.predictor
        del self.deconv, self.deconv_relu, self.predictor
        self.upsample = upsample
        self.predictor = predictor
