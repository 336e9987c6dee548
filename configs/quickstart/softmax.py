"""The baseline of configs/quickstart/seesaw.py: softmax cross-entropy on a linear classifier.

No published number: the data are generated here. docs/model_zoo.md has measured ones.
"""

from ..common.heads.classification import softmax as _softmax
from .seesaw import dataloader, lr_multiplier, model, optimizer, train, tta

model.roi_heads.box_predictor.update(_softmax)
