"""Box decoding with mmdet's limits."""

import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from torch import Tensor


class TwoSidedBox2BoxTransform(Box2BoxTransform):
    """Detectron2's box deltas, with the change of size limited both ways.

    Detectron2 keeps a box from growing by more than a factor of 1000 / 16; mmdet also keeps it from
    shrinking by more (``DeltaXYWHBBoxCoder``, ``wh_ratio_clip``). Only for weights trained there.

    Args:
        weights: factors of dx, dy, dw and dh: the inverse of mmdet's ``target_stds``.
        scale_clamp: limit of the sizes of dw and dh, after division by the weights.
    """

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Apply ``(R, 4 k)`` deltas to ``(R, 4)`` boxes; returns ``(R, 4 k)`` boxes."""
        deltas = deltas.float()
        smallest = deltas.new_full((4,), -torch.inf)
        smallest[2:] = -self.scale_clamp * smallest.new_tensor(self.weights[2:])
        limited = torch.maximum(deltas.view(len(deltas), deltas.shape[1] // 4, 4), smallest)
        return super().apply_deltas(limited.view_as(deltas), boxes)
