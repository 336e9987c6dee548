"""Box head of TSD: one feature to tell what a RoI is, another to tell where its object is.

Task-aware Spatial Disentanglement (Song et al., CVPR 2020, arXiv 2003.07540). From the pooled RoI
the head predicts how each bin should be moved to classify it, and how the box should be moved to
locate the object, and pools both. A branch on the RoI as it is, the sibling, learns beside them.

Shapes in this module:
    R: RoIs of all images
    D: channels of a feature map
    B: bins of a RoI per side
    F: features of a branch
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import FastRCNNConvFCHead
from detectron2.structures import Boxes
from torch import Tensor, nn

PoolRoIs = Callable[..., Tensor]
"""Pools the RoIs of a batch; ``offsets=`` are those of :class:`OffsetROIPooler`."""


class TSDFeatures(NamedTuple):
    """What the head makes of R RoIs."""

    classification: Any
    """``(R, F)`` features of the moved bins; of :class:`DualTSDBoxHead`, those of two branches."""
    localisation: Tensor
    """``(R, F)`` features of the moved boxes."""
    boxes: Tensor
    """``(R, 4)`` moved boxes, which are what the regression starts from."""
    sibling: Tensor | None
    """``(R, F)`` features of the RoIs as they are; None in inference, which has no use for them."""


class TSDBoxHead(nn.Module):
    """Predicts offsets for classification and for localisation, pools with both, and encodes.

    One stage of a cascade. Its heads have to pool with an :class:`OffsetROIPooler`, and its box
    predictor has to be :class:`TSDOutputLayers`. The branches are modules of their own, from pooled
    RoIs to features: ``classification``, ``localisation`` and ``sibling``.

    Args:
        input_shape: shape of one pooled RoI, square.
        fc_dims: outputs of the linear layers of each branch.
        conv_dims: channels of the convolutions before them.
        conv_norm: normalisation of the convolutions.
        offset_dim: width of the two hidden layers that predict offsets.
        offset_scale: an offset of 1 moves a bin or box by this fraction of the box's width or
            height.

    Raises:
        ValueError: RoIs that are not square.
    """

    repools = True
    """The heads call it with a pooler, rather than with what was pooled."""

    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        fc_dims: list[int],
        conv_dims: list[int] | None = None,
        conv_norm: Any = "",
        offset_dim: int = 256,
        offset_scale: float = 0.1,
    ) -> None:
        super().__init__()
        bins, channels = input_shape.height, input_shape.channels
        if bins is None or channels is None or bins != input_shape.width:
            raise ValueError(
                f"input_shape must have channels and as many bins in height as in width, got "
                f"{input_shape}"
            )
        self.bins = bins
        self.offset_scale = offset_scale
        self.shared_fc = nn.Sequential(nn.Linear(channels * bins**2, offset_dim), nn.ReLU())
        self.delta_c = _offsets(offset_dim, 2 * bins**2)
        self.delta_r = _offsets(offset_dim, 2)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, a=1)
                nn.init.zeros_(layer.bias)

        def branch() -> FastRCNNConvFCHead:
            return FastRCNNConvFCHead(
                input_shape, conv_dims=conv_dims or [], fc_dims=fc_dims, conv_norm=conv_norm
            )

        self.classification = branch()
        self.localisation = branch()
        self.sibling = branch()

    @property
    def output_shape(self) -> ShapeSpec:
        """Shape of each branch's features."""
        return self.sibling.output_shape

    def forward(self, pool: PoolRoIs, box_lists: list[Boxes]) -> TSDFeatures:
        """Features of RoIs.

        Args:
            pool: returns ``(R, D, B, B)`` features of the RoIs, moved by ``offsets`` if given.
            box_lists: per image, the boxes of its RoIs.
        """
        x = pool()
        boxes = Boxes.cat(box_lists).tensor
        of_bins, of_box = self.offsets(x, boxes)
        return TSDFeatures(
            classification=self.classification(pool(offsets=of_bins)),
            localisation=self.localisation(pool(offsets=of_box)),
            boxes=boxes + of_box.repeat(1, 2),
            sibling=self.sibling(x) if self.training else None,
        )

    def offsets(self, x: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Where to classify and where to locate, in pixels and in float32.

        Args:
            x: ``(R, D, B, B)`` pooled RoIs.
            boxes: ``(R, 4)``.

        Returns:
            ``(R, 2, B, B)`` offsets of the bins and ``(R, 2)`` offsets of the boxes, x before y.
        """
        hidden = self.shared_fc(x.flatten(1))
        of_bins, of_box = self.delta_c(hidden), self.delta_r(hidden)
        unit = self.offset_scale * (boxes[:, 2:] - boxes[:, :2])
        of_bins = of_bins.to(unit.dtype).view(len(x), 2, self.bins, self.bins)
        return of_bins * unit[:, :, None, None], of_box.to(unit.dtype) * unit


def _offsets(width: int, number: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, number))
