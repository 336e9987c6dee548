"""ROI heads for Detectron2 that take their classifier, loss and mask predictor as objects."""

from d2_seesaw.modeling.roi_heads.box_regression import TwoSidedBox2BoxTransform
from d2_seesaw.modeling.roi_heads.carafe_mask_head import CarafeMaskHead
from d2_seesaw.modeling.roi_heads.cascade import LossDrivenCascadeROIHeads
from d2_seesaw.modeling.roi_heads.context_encoder import GlobalContextEncoder
from d2_seesaw.modeling.roi_heads.dual_head import (
    DualBoxHead,
    DualOutputLayers,
    DualTSDBoxHead,
    DualTSDOutputLayers,
)
from d2_seesaw.modeling.roi_heads.fast_rcnn import LossDrivenOutputLayers
from d2_seesaw.modeling.roi_heads.htc_lite import HTCLiteROIHeads
from d2_seesaw.modeling.roi_heads.mask_head import AveragedMaskHeads, MaskHeadWithPredictor
from d2_seesaw.modeling.roi_heads.mask_iou_head import MaskIoUHead
from d2_seesaw.modeling.roi_heads.offset_pooler import OffsetROIPooler
from d2_seesaw.modeling.roi_heads.scored_mask_head import ScoredMaskHead
from d2_seesaw.modeling.roi_heads.tsd import TSDBoxHead
from d2_seesaw.modeling.roi_heads.tsd_predictor import TSDOutputLayers

__all__ = [
    "AveragedMaskHeads",
    "CarafeMaskHead",
    "DualBoxHead",
    "DualOutputLayers",
    "DualTSDBoxHead",
    "DualTSDOutputLayers",
    "GlobalContextEncoder",
    "HTCLiteROIHeads",
    "LossDrivenCascadeROIHeads",
    "LossDrivenOutputLayers",
    "MaskHeadWithPredictor",
    "MaskIoUHead",
    "OffsetROIPooler",
    "ScoredMaskHead",
    "TSDBoxHead",
    "TSDOutputLayers",
    "TwoSidedBox2BoxTransform",
]
