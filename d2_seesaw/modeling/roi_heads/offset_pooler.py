"""Detectron2's pooler over the levels of a pyramid, able to pool somewhere near the boxes.

A head that moves RoIs has to pool twice, so it needs the pooler, and has ``needs_pooler = True``.

Shapes in this module:
    R: boxes of all images
    B: bins of a RoI per side
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

from detectron2.modeling.poolers import (
    ROIPooler,
    assign_boxes_to_levels,
    convert_boxes_to_pooler_format,
)
from detectron2.modeling.roi_heads.cascade_rcnn import _ScaleGradient
from detectron2.structures import Boxes
from torch import Tensor, nn

from d2_seesaw.layers import roi_align_with_offsets


class OffsetROIPooler(ROIPooler):
    """Pools boxes as ``ROIPooler`` does or, given offsets, with every bin or whole boxes moved.

    A box is pooled from the same level of the pyramid wherever it is moved to. Only what is pooled
    with offsets has a gradient to them.

    Args:
        output_size: B, the same for height and width.
        scales: of the feature maps, the inverse of their strides.
        sampling_ratio: samples per bin and side without offsets; 0 adapts it to the box.
        pooler_type: ``"ROIAlignV2"``, the only one whose bins are where those with offsets are.
        offset_sampling_ratio: samples per bin and side with offsets, at least 1.
        pooler_options: the other arguments of ``ROIPooler``.

    Raises:
        ValueError: another ``pooler_type``, or an output that is not square.
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
            raise ValueError(f"pooler_type must be 'ROIAlignV2' with offsets, got {pooler_type!r}")
        super().__init__(output_size, scales, sampling_ratio, pooler_type, **pooler_options)
        height, width = self.output_size
        if height != width:
            raise ValueError(f"output_size must be one number with offsets, got {output_size}")
        self.offset_sampling_ratio = offset_sampling_ratio
        self.scales = list(scales)

    def forward(
        self, x: list[Tensor], box_lists: list[Boxes], offsets: Tensor | None = None
    ) -> Tensor:
        """Pool boxes.

        Args:
            x: feature maps, ``(N, D, H, W)`` of each scale.
            box_lists: per image, its boxes; R in all.
            offsets: x and y in pixels of the image, ``(R, 2)`` of the boxes or ``(R, 2, B, B)`` of
                their bins.

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
        pooled = x[0].new_zeros((len(rois), x[0].shape[1], size, size))
        for level, (features, scale) in enumerate(zip(x, self.scales, strict=True)):
            index = (levels == level).nonzero().squeeze(1)
            of_level = roi_align_with_offsets(
                features,
                rois[index],
                offsets[index],
                size,
                spatial_scale=scale,
                sampling_ratio=self.offset_sampling_ratio,
            )
            pooled.index_put_((index,), of_level)
        return pooled


def pool_and_encode(
    head: nn.Module,
    pooler: nn.Module,
    maps: list[Tensor],
    box_lists: list[Boxes],
    *,
    gradient_scale: float = 1.0,
) -> Any:
    """What a box head makes of RoIs.

    Args:
        head: a module from pooled RoIs; or, if its ``needs_pooler`` is true, from a function that
            pools the RoIs, moved by its argument ``offsets``, and from their boxes.
        pooler: pools boxes from feature maps.
        maps: the feature maps.
        box_lists: per image, the boxes of its RoIs.
        gradient_scale: factor on the gradient that the maps get. What is learned on the way, such
            as offsets, has its own gradient unscaled.
    """
    if gradient_scale != 1:
        maps = [_ScaleGradient.apply(m, gradient_scale) for m in maps]
    pool = partial(pooler, maps, box_lists)
    return head(pool, box_lists) if _needs_pooler(head) else head(pool())


def check_pooler(heads: Iterable[nn.Module], pooler: Any) -> None:
    """Refuse a pooler without offsets for heads that need them.

    Raises:
        ValueError: naming both and the pooler to take.
    """
    for head in heads:
        if _needs_pooler(head) and not isinstance(pooler, OffsetROIPooler):
            raise ValueError(
                f"{type(head).__name__} moves the RoIs it pools, which a {type(pooler).__name__} "
                "cannot: give an OffsetROIPooler as box_pooler"
            )


def _needs_pooler(head: nn.Module) -> bool:
    return bool(getattr(head, "needs_pooler", False))
