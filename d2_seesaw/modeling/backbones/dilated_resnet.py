"""ResNet stages with dilation instead of stride, which keep their resolution (DeepLab).

Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", section 3.1,
https://arxiv.org/abs/1706.05587. Names and shapes of the weights do not change, so weights
pretrained on ImageNet can be loaded.
"""

from collections.abc import Sequence
from typing import Any

from detectron2.layers import CNNBlockBase
from detectron2.modeling.backbone import ResNet
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock

_BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
# Dilations of res2 to res5, by output stride.
_DILATIONS = {32: (1, 1, 1, 1), 16: (1, 1, 1, 2), 8: (1, 1, 2, 4)}


class DilatedBasicBlock(BasicBlock):
    """Detectron2's ``BasicBlock``, of ResNet-18 and 34, with dilation.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: stride of the first convolution and the shortcut.
        norm: as in ``detectron2.layers.get_norm``.
        dilation: dilation of both convolutions.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        norm: Any = "BN",
        dilation: int = 1,
    ) -> None:
        super().__init__(in_channels, out_channels, stride=stride, norm=norm)
        for conv in (self.conv1, self.conv2):
            conv.dilation = conv.padding = (dilation, dilation)


def dilated_resnet_stages(
    depth: int,
    *,
    output_stride: int = 16,
    norm: Any = "BN",
    bottleneck: bool | None = None,
    multi_grid: Sequence[int] | None = None,
) -> list[list[CNNBlockBase]]:
    """Build the stages res2 to res5 of Detectron2's ``ResNet``, for a stem with 64 channels.

    A stage that would exceed ``output_stride`` keeps the resolution, and its 3 x 3 convolutions are
    dilated instead. Bottleneck blocks have their stride in the 3 x 3 convolution, as torchvision's
    weights require.

    Args:
        depth: 18, 34, 50, 101 or 152.
        output_stride: stride of res5: 8, 16 or 32.
        norm: as in ``detectron2.layers.get_norm``.
        bottleneck: use bottleneck blocks; by default from depth 50 on, as in torchvision.
        multi_grid: factors on the dilation of res5, one per block (section 3.2.1 of the paper).
            Their number is the number of blocks, whatever the depth. By default all blocks have
            the same dilation.

    Raises:
        ValueError: depth, output stride or a factor is not one of these.
    """
    if depth not in _BLOCKS:
        raise ValueError(f"depth must be one of {list(_BLOCKS)}, got {depth}")
    if output_stride not in _DILATIONS:
        raise ValueError(f"output_stride must be one of {list(_DILATIONS)}, got {output_stride}")
    dilations = [[d] * n for d, n in zip(_DILATIONS[output_stride], _BLOCKS[depth], strict=True)]
    if multi_grid is not None:
        if not multi_grid or min(multi_grid) < 1:
            raise ValueError(f"multi_grid must be integers of at least 1, got {list(multi_grid)}")
        dilations[-1] = [factor * dilations[-1][0] for factor in multi_grid]
    bottleneck = depth >= 50 if bottleneck is None else bottleneck
    stages = []
    in_channels, width, current_stride = 64, 64, 4
    for dilation_per_block in dilations:
        strides = [1] * len(dilation_per_block)
        if stages and current_stride < output_stride:
            strides[0] = 2
            current_stride *= 2
        if bottleneck:
            out_channels = 4 * width
            kind = {"block_class": BottleneckBlock, "bottleneck_channels": width}
        else:
            out_channels, kind = width, {"block_class": DilatedBasicBlock}
        blocks = ResNet.make_stage(
            num_blocks=len(dilation_per_block),
            in_channels=in_channels,
            out_channels=out_channels,
            stride_per_block=strides,
            dilation_per_block=dilation_per_block,
            norm=norm,
            **kind,
        )
        stages.append(blocks)
        in_channels, width = out_channels, 2 * width
    return stages
