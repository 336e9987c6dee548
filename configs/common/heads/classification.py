"""Classifier and loss of a box predictor: parts for ``model.roi_heads.box_predictor``.

Parts with ``class_counts`` count the training split of the config they are used in, when the first
step needs the counts.
"""

from detectron2.config import LazyCall as L

from d2_seesaw.data import training_class_counts
from d2_seesaw.layers import linear_classifier, normed_linear_classifier
from d2_seesaw.losses import (
    BalancedGroupSoftmaxLoss,
    ECMLoss,
    EqualizationLossV2,
    FederatedLoss,
    FederatedSeesawLoss,
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

_images = L(training_class_counts)(names="${dataloader.train.dataset.names}", of="images")

# CenterNet2's initial bias. Detectron2's own federated models start at 0.5.
federated = dict(
    cls_score=L(linear_classifier)(prior_probability=0.01),
    cls_loss=L(FederatedLoss)(
        num_classes="${..num_classes}", class_counts=_images, num_sampled=50, power=0.5
    ),
)

# The authors' initial bias.
equalization_v2 = dict(
    cls_score=L(linear_classifier)(prior_probability=0.001),
    cls_loss=L(EqualizationLossV2)(num_classes="${..num_classes}", gamma=12.0, mu=0.8, alpha=4.0),
)

# The authors' initial bias is 0. They train with a long warm-up and small gradients.
ecm = dict(
    cls_score=L(normed_linear_classifier)(temperature=20.0, prior_probability=0.5),
    cls_loss=L(ECMLoss)(
        num_classes="${..num_classes}", class_counts=_instances, background_ratio=6.3313
    ),
)

# The model must be a FederatedRCNN.
federated_seesaw = dict(
    cls_score=L(normed_linear_classifier)(temperature=20.0),
    cls_loss=L(FederatedSeesawLoss)(num_classes="${..num_classes}", p=0.8, q=2.0, eps=1e-2),
)
