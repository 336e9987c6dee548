"""Modulated deformable convolution, DCNv2 (https://arxiv.org/abs/1811.11168).

Built on torchvision's operator.

Shapes in this module:
    N: samples, may be 0
    K: kernel taps
    G: groups of channels with their own offsets
"""

import math
import re
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from d2_seesaw.utils.text import did_you_mean


class DeformConv2d(nn.Conv2d):
    r"""``nn.Conv2d`` whose taps are moved and scaled by predicted values (DCNv2, equation 1).

    .. math::
        y(p) = \sum_k w_k \; x(p + p_k + \Delta p_k) \; \Delta m_k

    ``weight`` and ``bias`` are as in ``nn.Conv2d``, so the weights of a plain convolution can be
    loaded. ``conv_offset`` has the same kernel size, stride, padding and dilation, and
    ``3 * G * K`` output channels: first the offsets, ``dy`` and ``dx`` of each tap in turn, then
    the logits of the masks. It is initialized to zero.

    Sampling is in at least float32, also under autocast, because torchvision's operator does not
    support bfloat16. The output has the dtype of a plain convolution's output.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: as in ``nn.Conv2d``.
        deform_groups: G; must divide ``in_channels``.
        mask_gain: factor on the masks. With the paper's 1, the masks start at 0.5, which halves the
            output of a pretrained plain convolution. With 2, that output is unchanged at first.
        per_image: sample the images of a batch one by one. torchvision's buffer of
            ``K * in_channels`` values per output pixel then holds one image instead of the batch.
        norm: module to apply to the output, named ``norm`` as in Detectron2's ``Conv2d``.
        activation: function to apply last.
        conv_options: ``stride``, ``padding``, ``dilation``, ``groups``, ``bias``, as in
            ``nn.Conv2d``. Padding is a number or a pair, and uses zeros.

    Raises:
        ValueError: the groups do not divide the channels, or the padding is not supported.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        deform_groups: int = 1,
        mask_gain: float = 1.0,
        per_image: bool = False,
        norm: nn.Module | None = None,
        activation: Callable[[Tensor], Tensor] | None = None,
        **conv_options: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, **conv_options)
        if in_channels % deform_groups:
            raise ValueError(
                f"deform_groups must divide the {in_channels} input channels, got {deform_groups}"
            )
        if isinstance(self.padding, str) or self.padding_mode != "zeros":
            raise ValueError(
                "a deformable convolution supports numeric zero padding only, got padding "
                f"{self.padding!r} in mode {self.padding_mode!r}"
            )
        self.deform_groups = deform_groups
        self.mask_gain = mask_gain
        self.per_image = per_image
        grid: dict[str, Any] = {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
        }
        self._grid = grid
        taps = math.prod(self.kernel_size)
        self.conv_offset = nn.Conv2d(
            in_channels, 3 * deform_groups * taps, cast("tuple[int, int]", self.kernel_size), **grid
        )
        nn.init.zeros_(self.conv_offset.weight)
        if self.conv_offset.bias is not None:
            nn.init.zeros_(self.conv_offset.bias)
        self.norm = norm
        self.activation = activation

    def forward(self, input: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, out_channels, H', W')``."""
        offset_and_mask = self.conv_offset(input)
        wide = torch.promote_types(input.dtype, torch.float32)
        x = self._sample(input.to(wide), offset_and_mask.to(wide)).to(offset_and_mask.dtype)
        if self.norm is not None:
            x = self.norm(x)
        if self.activation is not None:
            x = self.activation(x)
        return x

    def _sample(self, x: Tensor, offset_and_mask: Tensor) -> Tensor:
        # Imported here, so that the other layers do not need torchvision.
        from torchvision.ops import deform_conv2d

        taps = offset_and_mask.shape[1] // 3
        offset, mask = offset_and_mask.split([2 * taps, taps], dim=1)
        mask = self.mask_gain * mask.sigmoid()
        weight = self.weight.to(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        images = [(x, offset, mask)]
        if self.per_image and len(x) > 1:
            images = list(zip(x.split(1), offset.split(1), mask.split(1), strict=True))
        outputs = [
            deform_conv2d(x, offset, weight, bias, mask=mask, **self._grid)
            for x, offset, mask in images
        ]
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0]

    def extra_repr(self) -> str:
        """Return sizes and hyper-parameters for ``print(model)``."""
        return (
            f"{super().extra_repr()}, deform_groups={self.deform_groups}, "
            f"mask_gain={self.mask_gain}"
        )


def deform_convs(module: nn.Module, names: str, **options: Any) -> nn.Module:
    r"""Replace convolutions inside a module by deformable ones that keep their weights.

    The official models replace all 3 x 3 convolutions of the last three stages:
    ``deform_convs(resnet, r"res[345]\.\d+\.conv2")`` for Detectron2's ResNet. Existing names in the
    state dict do not change; ``conv_offset`` adds new ones.

    Args:
        module: changed in place.
        names: regular expression for full names of convolutions inside ``module``.
        options: ``deform_groups``, ``mask_gain`` and ``per_image`` of :class:`DeformConv2d`.

    Returns:
        ``module``.

    Raises:
        ValueError: no convolution has such a name, or one cannot be replaced.
    """
    convs = {name: m for name, m in module.named_modules() if name and isinstance(m, nn.Conv2d)}
    found = {name: conv for name, conv in convs.items() if re.fullmatch(names, name)}
    if not found:
        hint = did_you_mean(names, convs, cutoff=0)
        raise ValueError(f"no convolution is named {names!r}{hint}")
    new = {name: _deformable(name, conv, options) for name, conv in found.items()}
    for name, conv in new.items():
        parent, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(parent), attribute, conv)
    return module


def _deformable(name: str, conv: nn.Conv2d, options: dict[str, Any]) -> DeformConv2d:
    # Another subclass of nn.Conv2d may do more than norm and activation.
    is_from_detectron2 = type(conv).__module__.startswith("detectron2.layers.")
    if type(conv) is not nn.Conv2d and not is_from_detectron2:
        raise ValueError(
            f"{name} is a {type(conv).__name__}; only Conv2d of torch or Detectron2 can be replaced"
        )
    like_conv: dict[str, Any] = {
        "kernel_size": conv.kernel_size,
        "stride": conv.stride,
        "padding": conv.padding,
        "padding_mode": conv.padding_mode,
        "dilation": conv.dilation,
        "groups": conv.groups,
        "bias": conv.bias is not None,
        "norm": getattr(conv, "norm", None),
        "activation": getattr(conv, "activation", None),
    }
    deformable = DeformConv2d(conv.in_channels, conv.out_channels, **like_conv, **options)
    deformable.conv_offset.to(conv.weight).train(conv.training)
    deformable.weight, deformable.bias = conv.weight, conv.bias
    # Not train(), which would also change the mode of the norm.
    deformable.training = conv.training
    return deformable
