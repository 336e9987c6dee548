"""Dual heads: one new classification branch per stage is trained, nothing else.

These parts update the config of a trained model, here a cascade with TSD:

    model.update(_dual_model)
    for _box_head, _predictor in zip(model.roi_heads.box_heads, model.roi_heads.box_predictors):
        _box_head.update(_dual_tsd_box_head)
        _predictor.update(_dual_tsd_box_predictor)
        _predictor.update(new_cls_score=_predictor.cls_score, new_cls_loss=_predictor.cls_loss)
    dataloader.train.sampling = _repeat_factor
    train.epochs = 12
    train.init_checkpoint = "output/step_before/model_final.pth"

Without TSD, use ``box_head`` and ``box_predictor``. Without the new box head, the new branch is a
new classifier on the old features. A new branch with another loss, such as ``_seesaw.cls_loss`` of
``classification.py`` after training with softmax, needs ``model.init = "random"``.
"""

from detectron2.config import LazyCall as L

from d2_seesaw.modeling import DualHeadRCNN
from d2_seesaw.modeling.roi_heads import (
    DualBoxHead,
    DualOutputLayers,
    DualTSDBoxHead,
    DualTSDOutputLayers,
)

model = L(DualHeadRCNN)(init="copy", fresh_counts=True)

box_head = L(DualBoxHead)()
box_predictor = L(DualOutputLayers)()

tsd_box_head = L(DualTSDBoxHead)()
tsd_box_predictor = L(DualTSDOutputLayers)()
