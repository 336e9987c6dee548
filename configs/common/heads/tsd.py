"""TSD for the box heads of a cascade: parts that update the heads of its stages.

    _heads = model.roi_heads
    _heads.box_pooler.update(_tsd_box_pooler)
    for _box_head, _predictor in zip(_heads.box_heads, _heads.box_predictors):
        _box_head.update(_tsd_box_head)
        _predictor.update(_tsd_box_predictor)
        _predictor.update(_tsd_seesaw)  # for Seesaw Loss

A stage keeps its own sizes and box weights. Margins and losses are taken from the authors' configs.
Unlike there, boxes are class-agnostic if the cascade's are, and the losses of the stages keep the
cascade's weights; the authors use 1, 1, 1 (``stage_loss_weights``).
"""

from detectron2.config import LazyCall as L

from d2_seesaw.modeling.roi_heads import OffsetROIPooler, TSDBoxHead, TSDOutputLayers

from .classification import seesaw as _seesaw
from .classification import softmax as _softmax

box_pooler = L(OffsetROIPooler)(offset_sampling_ratio=2)

box_head = L(TSDBoxHead)(offset_dim=256, offset_scale=0.1)

box_predictor = L(TSDOutputLayers)(
    sibling_cls_score=_softmax.cls_score,
    sibling_cls_loss=_softmax.cls_loss,
    pc_cls=True,
    pc_loc=True,
    pc_margin=0.3,
    detach_targets=False,
)

# The Seesaw Loss paper (appendix D) uses Seesaw Loss in "the classification branches of TSD heads"
# and drops the constraint on classification. Here the sibling uses it too, because softmax would
# teach the shared features to suppress rare classes.
seesaw = dict(
    cls_score=_seesaw.cls_score,
    cls_loss=_seesaw.cls_loss,
    sibling_cls_score=_seesaw.cls_score,
    sibling_cls_loss=_seesaw.cls_loss,
    pc_cls=False,
)
