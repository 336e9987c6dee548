"""Classifier and loss of a box predictor: parts for ``model.roi_heads.box_predictor``."""

from detectron2.config import LazyCall as L

from d2_seesaw.layers import linear_classifier, normed_linear_classifier
from d2_seesaw.losses import SeesawLoss, SoftmaxLoss

softmax = dict(
    cls_score=L(linear_classifier)(),
    cls_loss=L(SoftmaxLoss)(num_classes="${..num_classes}"),
)

seesaw = dict(
    cls_score=L(normed_linear_classifier)(temperature=20.0),
    cls_loss=L(SeesawLoss)(num_classes="${..num_classes}", p=0.8, q=2.0, eps=1e-2),
)
