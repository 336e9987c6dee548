"""Parts of Detectron2's models that start from mmdet's distribution of weights.

Both libraries draw from a uniform distribution. Detectron2 computes its limit from the number of
inputs alone, mmdet from inputs and outputs (Glorot and Bengio, "Understanding the difficulty of
training deep feedforward neural networks", 2010). They differ where these numbers do: in the
lateral convolutions of an FPN and in the first linear layer of a box head.
"""

from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import FPN
from detectron2.modeling.roi_heads import FastRCNNConvFCHead
from torch import nn

from d2_seesaw.modeling.roi_heads.mask_head import MaskHeadWithPredictor


class GlorotFPN(FPN):
    """Detectron2's FPN with Glorot's initialization. Arguments are those of ``FPN``."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for conv in (*self.lateral_convs, *self.output_convs):
            nn.init.xavier_uniform_(conv.weight)


class GlorotBoxHead(FastRCNNConvFCHead):
    """Detectron2's box head with Glorot's initialization of its linear layers.

    Arguments are those of ``FastRCNNConvFCHead``.
    """

    def __init__(self, input_shape: ShapeSpec, **options: Any) -> None:
        super().__init__(input_shape, **options)
        for layer in self.fcs:
            nn.init.xavier_uniform_(layer.weight)


class TorchInitializedMaskHead(MaskHeadWithPredictor):
    """Mask head whose upsampling and predictor start from PyTorch's own initialization.

    So do those of mmdet 3.3.0's cascades and HTC: it keeps their mask heads in a plain
    ``nn.ModuleList``, through which its initialization does not pass. The convolutions before are
    initialized as in Mask R-CNN. Arguments are those of :class:`MaskHeadWithPredictor`.
    """

    def __init__(self, input_shape: ShapeSpec, **options: Any) -> None:
        super().__init__(input_shape, **options)
        self.deconv.reset_parameters()
        if isinstance(self.predictor, nn.Conv2d):
            nn.Conv2d.reset_parameters(self.predictor)
