"""ROI heads for Detectron2 with exchangeable classifiers, losses and mask predictors."""

from d2_seesaw.modeling.roi_heads.cascade import LossDrivenCascadeROIHeads
from d2_seesaw.modeling.roi_heads.dual_head import (
    DualBoxHead,
    DualOutputLayers,
    DualTSDBoxHead,
    DualTSDOutputLayers,
)
from d2_seesaw.modeling.roi_heads.fast_rcnn import LossDrivenOutputLayers, TwoSidedBox2BoxTransform
from d2_seesaw.modeling.roi_heads.htc import HTCROIHeads
from d2_seesaw.modeling.roi_heads.htc_lite import GlobalContextEncoder, HTCLiteROIHeads
from d2_seesaw.modeling.roi_heads.htc_semantic import FusedSemanticHead
from d2_seesaw.modeling.roi_heads.mask_head import (
    AveragedMaskHeads,
    CarafeMaskHead,
    HTCMaskHeads,
    MaskHeadWithPredictor,
)
from d2_seesaw.modeling.roi_heads.mask_scoring import MaskIoUHead, ScoredMaskHead
from d2_seesaw.modeling.roi_heads.offset_pooler import OffsetROIPooler
from d2_seesaw.modeling.roi_heads.row_pooler import RowROIPooler
from d2_seesaw.modeling.roi_heads.tsd import TSDBoxHead, TSDOutputLayers

__all__ = [
    "AveragedMaskHeads",
    "CarafeMaskHead",
    "DualBoxHead",
    "DualOutputLayers",
    "DualTSDBoxHead",
    "DualTSDOutputLayers",
    "FusedSemanticHead",
    "GlobalContextEncoder",
    "HTCLiteROIHeads",
    "HTCMaskHeads",
    "HTCROIHeads",
    "LossDrivenCascadeROIHeads",
    "LossDrivenOutputLayers",
    "MaskHeadWithPredictor",
    "MaskIoUHead",
    "OffsetROIPooler",
    "RowROIPooler",
    "ScoredMaskHead",
    "TSDBoxHead",
    "TSDOutputLayers",
    "TwoSidedBox2BoxTransform",
]
