"""Detectron2's pooler over pyramid levels, extended by offsets of boxes or bins.

A head that moves RoIs pools twice. It therefore gets the pooler, and has ``needs_pooler = True``.

Shapes in this module:
    R: boxes of all images
    B: bins per side of a RoI
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

from detectron2.modeling.poolers import (
    assign_boxes_to_levels,
    convert_boxes_to_pooler_format,
)
from detectron2.modeling.roi_heads.cascade_rcnn import _ScaleGradient
from detectron2.structures import Boxes
from torch import Tensor, nn

from d2_seesaw.layers import roi_align_with_offsets
from d2_seesaw.modeling.roi_heads.row_pooler import RowROIPooler


class OffsetROIPooler(RowROIPooler):
    """``ROIPooler`` that can move boxes or their bins by offsets.

    The pyramid level of a box does not depend on its offset. Pooling with offsets is differentiable
    with respect to them.

    Args:
        output_size: B, the same for height and width.
        scales: inverse strides of the feature maps.
        sampling_ratio: samples per side of a bin without offsets; 0 adapts it to the box.
        pooler_type: ``"ROIAlignV2"``, the only type whose bins match those with offsets.
        offset_sampling_ratio: samples per side of a bin with offsets, at least 1.
        pooler_options: other arguments of ``ROIPooler``.

    Raises:
        ValueError: the ``pooler_type`` is another one, or the output is not square.
    """

    def __init__(
        self,
        output_size: int,
        scales: list[float],
        sampling_ratio: int = 0,
        pooler_type: str = "ROIAlignV2",
        *,
        offset_sampling_ratio: int = 2,
        **pooler_options: Any,
    ) -> None:
        if pooler_type != "ROIAlignV2":
            raise ValueError(f"offsets need pooler_type 'ROIAlignV2', got {pooler_type!r}")
        super().__init__(output_size, scales, sampling_ratio, pooler_type, **pooler_options)
        height, width = self.output_size
        if height != width:
            raise ValueError(f"offsets need a square output_size, got {output_size}")
        self.offset_sampling_ratio = offset_sampling_ratio
        self.scales = list(scales)

    def forward(
        self, x: list[Tensor], box_lists: list[Boxes], offsets: Tensor | None = None
    ) -> Tensor:
        """Pool boxes.

        Args:
            x: ``(N, D, H, W)`` feature maps, one per scale.
            box_lists: boxes per image, R in total.
            offsets: x and y in pixels of the image, ``(R, 2)`` per box or ``(R, 2, B, B)`` per bin.

        Returns:
            ``(R, D, B, B)`` features, in the order of the boxes.
        """
        if offsets is None:
            return super().forward(x, box_lists)
        rois = convert_boxes_to_pooler_format(box_lists)
        levels = assign_boxes_to_levels(
            box_lists, self.min_level, self.max_level, self.canonical_box_size, self.canonical_level
        )
        size = self.output_size[0]
        pooled = x[0].new_zeros((rois.shape[0], x[0].shape[1], size, size))
        for level, (features, scale) in enumerate(zip(x, self.scales, strict=True)):
            index = (levels == level).nonzero().squeeze(1)
            pooled_level = roi_align_with_offsets(
                features,
                rois[index],
                offsets[index],
                size,
                spatial_scale=scale,
                sampling_ratio=self.offset_sampling_ratio,
            )
            pooled.index_put_((index,), pooled_level)
        return pooled


def pool_and_encode(
    head: nn.Module,
    pooler: nn.Module,
    maps: list[Tensor],
    box_lists: list[Boxes],
    *,
    gradient_scale: float = 1.0,
) -> Any:
    """Pool RoIs and encode them by a box head.

    Args:
        head: a module called with pooled RoIs. If its ``needs_pooler`` is true, it is called with a
            function that pools the RoIs, moved by its argument ``offsets``, and with their boxes.
        pooler: pooler of boxes from feature maps.
        maps: feature maps.
        box_lists: boxes of the RoIs per image.
        gradient_scale: factor on the gradient of the maps. Other gradients, such as those of
            offsets, are not scaled.
    """
    if gradient_scale != 1:
        maps = [_ScaleGradient.apply(m, gradient_scale) for m in maps]
    pool = partial(pooler, maps, box_lists)
    return head(pool, box_lists) if _needs_pooler(head) else head(pool())


def check_pooler(heads: Iterable[nn.Module], pooler: Any) -> None:
    """Check that the pooler supports offsets if a head needs them.

    Raises:
        ValueError: it does not.
    """
    for head in heads:
        if _needs_pooler(head) and not isinstance(pooler, OffsetROIPooler):
            raise ValueError(
                f"{type(head).__name__} pools RoIs with offsets, which {type(pooler).__name__} "
                "does not support: use an OffsetROIPooler as box_pooler"
            )


def _needs_pooler(head: nn.Module) -> bool:
    return bool(getattr(head, "needs_pooler", False))
