"""A new classifier with Seesaw Loss after configs/quickstart/softmax.py, all else frozen.

No published results: the data are generated.
"""

from ..common.heads.classification import seesaw as _seesaw
from .decoupled_crt import dataloader, lr_multiplier, model, optimizer, train, tta

model.roi_heads.box_predictor.update(_seesaw)
