"""Classifier re-training (cRT) after configs/quickstart/classification_softmax.py.

No published results: the data are generated. docs/classification.md lists measured results.
"""

from ..common.data.sampling import class_balanced as _class_balanced
from ..common.heads.decoupled import decoupled_classifier as _decoupled
from .classification_softmax import dataloader, lr_multiplier, model, optimizer, train

model.update(_decoupled)
dataloader.train.sampling = _class_balanced
train.epochs = 10
train.init_checkpoint = "output/quickstart/classification_softmax/model_final.pth"
