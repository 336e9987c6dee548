"""Models for Detectron2: backbones, a neck, ROI heads, semantic heads and meta-architectures."""

from typing import TYPE_CHECKING, Any

import d2_seesaw._requires_detectron2  # noqa: F401  (an error in one line)
from d2_seesaw.modeling.backbones import (
    DilatedBasicBlock,
    PlainViT,
    TimmBackbone,
    TorchvisionBackbone,
    dilated_resnet_stages,
    layer_decay,
)
from d2_seesaw.modeling.classifier import DecoupledClassifier, ImageClassifier
from d2_seesaw.modeling.fpg import FPG
from d2_seesaw.modeling.initialization import (
    GlorotBoxHead,
    GlorotFPN,
    TorchInitializedMaskHead,
)
from d2_seesaw.modeling.label_map_rcnn import LabelMapRCNN
from d2_seesaw.modeling.matcher import MaxIoUMatcher
from d2_seesaw.modeling.meta_arch import (
    DualHeadRCNN,
    FederatedDecoupledRCNN,
    FederatedDualHeadRCNN,
    FederatedRCNN,
    PaddedMaskRCNN,
)
from d2_seesaw.modeling.roi_heads import (
    AveragedMaskHeads,
    CarafeMaskHead,
    DualBoxHead,
    DualOutputLayers,
    DualTSDBoxHead,
    DualTSDOutputLayers,
    FusedSemanticHead,
    GlobalContextEncoder,
    HTCLiteROIHeads,
    HTCMaskHeads,
    HTCROIHeads,
    LossDrivenCascadeROIHeads,
    LossDrivenOutputLayers,
    MaskHeadWithPredictor,
    MaskIoUHead,
    OffsetROIPooler,
    RowROIPooler,
    ScoredMaskHead,
    TSDBoxHead,
    TSDOutputLayers,
    TwoSidedBox2BoxTransform,
)
from d2_seesaw.modeling.rpn import SampledRPNHead, ValidAnchorRPN
from d2_seesaw.modeling.second_phase import DecoupledRCNN

if TYPE_CHECKING:
    from d2_seesaw.modeling.semantic_heads import (
        CornerAlignedDeepLabV3PlusHead,
        LossDrivenDeepLabV3PlusHead,
        LossDrivenSemSegFPNHead,
    )

__all__ = [
    "FPG",
    "AveragedMaskHeads",
    "CarafeMaskHead",
    "CornerAlignedDeepLabV3PlusHead",
    "DecoupledClassifier",
    "DecoupledRCNN",
    "DilatedBasicBlock",
    "DualBoxHead",
    "DualHeadRCNN",
    "DualOutputLayers",
    "DualTSDBoxHead",
    "DualTSDOutputLayers",
    "FederatedDecoupledRCNN",
    "FederatedDualHeadRCNN",
    "FederatedRCNN",
    "FusedSemanticHead",
    "GlobalContextEncoder",
    "GlorotBoxHead",
    "GlorotFPN",
    "HTCLiteROIHeads",
    "HTCMaskHeads",
    "HTCROIHeads",
    "ImageClassifier",
    "LabelMapRCNN",
    "LossDrivenCascadeROIHeads",
    "LossDrivenDeepLabV3PlusHead",
    "LossDrivenOutputLayers",
    "LossDrivenSemSegFPNHead",
    "MaskHeadWithPredictor",
    "MaskIoUHead",
    "MaxIoUMatcher",
    "OffsetROIPooler",
    "PaddedMaskRCNN",
    "PlainViT",
    "RowROIPooler",
    "SampledRPNHead",
    "ScoredMaskHead",
    "TSDBoxHead",
    "TSDOutputLayers",
    "TimmBackbone",
    "TorchInitializedMaskHead",
    "TorchvisionBackbone",
    "TwoSidedBox2BoxTransform",
    "ValidAnchorRPN",
    "dilated_resnet_stages",
    "layer_decay",
]

_SEMANTIC_HEADS = (
    "CornerAlignedDeepLabV3PlusHead",
    "LossDrivenDeepLabV3PlusHead",
    "LossDrivenSemSegFPNHead",
)


def __getattr__(name: str) -> Any:
    # Importing Detectron2's DeepLab registers its heads, which fails where another copy of that
    # project has done so. Who wants the ROI heads alone is spared that.
    if name in _SEMANTIC_HEADS:
        from d2_seesaw.modeling import semantic_heads

        return getattr(semantic_heads, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
