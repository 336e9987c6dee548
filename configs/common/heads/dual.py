"""Dual heads: a trained model learns one more classification branch per stage, nothing else.

Parts that are laid over those of the model that was trained before, here of a cascade with TSD:

    model.update(_dual_model)
    for _box_head, _predictor in zip(model.roi_heads.box_heads, model.roi_heads.box_predictors):
        _box_head.update(_dual_tsd_box_head)
        _predictor.update(_dual_tsd_box_predictor)
    dataloader.train.sampling = _repeat_factor
    train.epochs = 12
    train.init_checkpoint = "output/step_before/model_final.pth"

Without TSD it is ``box_head`` and ``box_predictor``; leave out the box head, and the new branch is
a new classifier on the old features. Lay them over last: the new classifier and its loss are of the
kind that the old ones are, unless something else is put in ``new_cls_score`` and ``new_cls_loss``.
"""

from detectron2.config import LazyCall as L

from d2_seesaw.roi_heads import (
    DualBoxHead,
    DualHeadRCNN,
    DualOutputLayers,
    DualTSDBoxHead,
    DualTSDOutputLayers,
)

model = L(DualHeadRCNN)(init="copy", fresh_counts=True)

box_head = L(DualBoxHead)()
box_predictor = L(DualOutputLayers)(new_cls_score="${.cls_score}", new_cls_loss="${.cls_loss}")

tsd_box_head = L(DualTSDBoxHead)()
tsd_box_predictor = L(DualTSDOutputLayers)(
    new_cls_score="${.cls_score}", new_cls_loss="${.cls_loss}"
)
