"""The baseline of configs/quickstart/seesaw.py: softmax cross-entropy on a linear classifier.

No published results: the data are generated. docs/model_zoo.md lists measured results.
"""

from ..common.heads.classification import softmax as _softmax
from .seesaw import dataloader, lr_multiplier, model, optimizer, train, tta

model.roi_heads.box_predictor.update(_softmax)
