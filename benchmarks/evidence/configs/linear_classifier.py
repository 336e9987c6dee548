"""instances.py with a linear classifier that is not normalized."""

from ....configs.common.heads.classification import softmax as _softmax
from .instances import dataloader, lr_multiplier, model, optimizer, train

model.roi_heads.box_predictor.cls_score = _softmax["cls_score"]
