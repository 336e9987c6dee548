"""Classifier and loss of an image classifier: parts for ``model``."""

from detectron2.config import LazyCall as L
from torch.nn import CrossEntropyLoss

from d2_seesaw.layers import (
    linear_classifier,
    normed_linear_classifier,
    tau_normalized_classifier,
)
from d2_seesaw.losses import SeesawCrossEntropyLoss

softmax = dict(classifier=L(linear_classifier)(std=0.01), loss=L(CrossEntropyLoss)())

# q = 1 is the best of the paper's table 11. No label is ignored.
seesaw = dict(
    classifier=L(normed_linear_classifier)(temperature=20.0),
    loss=L(SeesawCrossEntropyLoss)(
        num_classes="${..num_classes}", p=0.8, q=1.0, eps=1e-2, ignore_index=-1
    ),
)

# For the evaluation of a model that was trained with softmax: tau is chosen on validation data.
tau_normalized = dict(classifier=L(tau_normalized_classifier)(tau=0.7), loss=L(CrossEntropyLoss)())
