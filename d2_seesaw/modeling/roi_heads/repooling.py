"""Box heads that pool RoIs themselves, beside those that are given what was pooled.

A head that moves RoIs has to pool twice, so it needs the pooler. It says so by ``repools = True``.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

from detectron2.modeling.roi_heads.cascade_rcnn import _ScaleGradient
from detectron2.structures import Boxes
from torch import Tensor, nn

from d2_seesaw.modeling.roi_heads.offset_pooler import OffsetROIPooler


def roi_features(
    head: nn.Module,
    pooler: nn.Module,
    maps: list[Tensor],
    box_lists: list[Boxes],
    *,
    gradient_scale: float = 1.0,
) -> Any:
    """What a box head makes of RoIs.

    Args:
        head: a module from pooled RoIs; or, if its ``repools`` is true, from a function that pools
            the RoIs, moved by its argument ``offsets``, and from their boxes.
        pooler: pools boxes from feature maps.
        maps: the feature maps.
        box_lists: per image, the boxes of its RoIs.
        gradient_scale: factor on the gradient that the maps get. What is learned on the way, such
            as offsets, has its own gradient unscaled.
    """
    if gradient_scale != 1:
        maps = [_ScaleGradient.apply(m, gradient_scale) for m in maps]
    pool = partial(pooler, maps, box_lists)
    return head(pool, box_lists) if _repools(head) else head(pool())


def check_pooler(heads: Iterable[nn.Module], pooler: Any) -> None:
    """Refuse a pooler without offsets for heads that need them.

    Raises:
        ValueError: naming both and the pooler to take.
    """
    for head in heads:
        if _repools(head) and not isinstance(pooler, OffsetROIPooler):
            raise ValueError(
                f"{type(head).__name__} moves the RoIs it pools, which a {type(pooler).__name__} "
                "cannot: give an OffsetROIPooler as box_pooler"
            )


def _repools(head: nn.Module) -> bool:
    return bool(getattr(head, "repools", False))
