"""Matching of anchors and RoIs with objects by their IoU, as in mmdet's ``MaxIoUAssigner``.

Shapes in this module:
    M: objects
    N: anchors or RoIs
"""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling.matcher import Matcher
from torch import Tensor


class MaxIoUMatcher(Matcher):
    """Detectron2's matcher with a floor for low-quality matches, and with objects as RoIs.

    A low-quality match makes a box positive that no threshold does, because it is the best one of
    an object. Detectron2 accepts any best box, however little it overlaps; here its IoU must reach
    a floor. Also, the box is then matched to that object, even if it overlaps another one more;
    Detectron2 keeps the other one. Several best boxes of an object are all matched to it, and the
    last of several objects gets their common best box.

    Args:
        thresholds: increasing IoUs between the levels of ``labels``.
        labels: label of each level: 0 is negative, -1 ignored, 1 positive.
        low_quality_floor: smallest IoU of a low-quality match; None for no such matches.
        objects_appended: the last M columns are the objects themselves, as Detectron2's ROI heads
            append them to the proposals. They are then matched to themselves, also if several
            objects have the same box, and are not counted as the best boxes of objects.
    """

    def __init__(
        self,
        thresholds: Sequence[float],
        labels: Sequence[int],
        *,
        low_quality_floor: float | None = None,
        objects_appended: bool = False,
    ) -> None:
        super().__init__(list(thresholds), list(labels), allow_low_quality_matches=False)
        self.low_quality_floor = low_quality_floor
        self.objects_appended = objects_appended

    def __call__(self, match_quality_matrix: Tensor) -> Any:
        """Match boxes to objects.

        Args:
            match_quality_matrix: ``(M, N)`` IoUs.

        Returns:
            ``(N,)`` int64 index of each box's object and ``(N,)`` int8 labels -1, 0 or 1. The index
            counts for positive boxes only.

        Raises:
            ValueError: ``objects_appended`` and fewer columns than objects.
        """
        num_objects, num_boxes = match_quality_matrix.shape
        num_appended = num_objects if self.objects_appended else 0
        if num_boxes < num_appended:
            raise ValueError(
                f"objects_appended needs the {num_objects} objects among the boxes, "
                f"got {num_boxes} boxes"
            )
        quality = match_quality_matrix[:, : num_boxes - num_appended]
        matches, labels = super().__call__(quality)
        if self.low_quality_floor is not None and quality.numel() > 0:
            _add_low_quality_matches(quality, matches, labels, self.low_quality_floor)
        own = torch.arange(num_appended, device=matches.device)
        return torch.cat([matches, own]), torch.cat([labels, labels.new_ones(num_appended)])


def _add_low_quality_matches(
    quality: Tensor, matches: Tensor, labels: Tensor, floor: float
) -> None:
    best = quality.amax(dim=1, keepdim=True)
    is_match = (quality == best) & (best >= floor)
    objects, boxes = is_match.nonzero(as_tuple=True)
    matches.scatter_reduce_(0, boxes, objects, "amax", include_self=False)
    labels[boxes] = 1
