"""Classifier and loss of a box predictor: parts for ``model.roi_heads.box_predictor``.

Parts with ``class_counts`` count the training split of the config they are used in, when the first
step needs the counts.
"""

from detectron2.config import LazyCall as L

from d2_seesaw.data import training_class_counts
from d2_seesaw.layers import linear_classifier, normed_linear_classifier
from d2_seesaw.losses import (
    BalancedGroupSoftmaxLoss,
    LogitAdjustmentLoss,
    SeesawLoss,
    SoftmaxLoss,
)

softmax = dict(
    cls_score=L(linear_classifier)(),
    cls_loss=L(SoftmaxLoss)(num_classes="${..num_classes}"),
)

softmax_objectness = dict(
    cls_score=L(linear_classifier)(),
    cls_loss=L(SoftmaxLoss)(num_classes="${..num_classes}", objectness=True),
)

seesaw = dict(
    cls_score=L(normed_linear_classifier)(temperature=20.0),
    cls_loss=L(SeesawLoss)(num_classes="${..num_classes}", p=0.8, q=2.0, eps=1e-2),
)

seesaw_no_objectness = dict(
    cls_score=L(normed_linear_classifier)(temperature=20.0),
    cls_loss=L(SeesawLoss)(
        num_classes="${..num_classes}", p=0.8, q=2.0, eps=1e-2, objectness=False
    ),
)

_instances = L(training_class_counts)(names="${dataloader.train.dataset.names}", of="instances")

balanced_group_softmax = dict(
    cls_score=L(linear_classifier)(),
    cls_loss=L(BalancedGroupSoftmaxLoss)(
        num_classes="${..num_classes}",
        class_counts=_instances,
        bounds=[10, 100, 1000],
        others_ratio=8.0,
    ),
)

balanced_softmax = dict(
    cls_score=L(linear_classifier)(),
    cls_loss=L(LogitAdjustmentLoss)(
        num_classes="${..num_classes}", class_counts=_instances, tau=1.0, objectness=True
    ),
)

logit_adjustment = dict(
    cls_score=L(linear_classifier)(),
    cls_loss=L(LogitAdjustmentLoss)(
        num_classes="${..num_classes}", class_counts=_instances, tau=1.0, objectness=False
    ),
)
