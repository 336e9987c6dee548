"""Classifier re-training (cRT) after configs/quickstart/softmax.py, with class-balanced sampling.

    d2-seesaw train --config-file quickstart/softmax
    d2-seesaw train --config-file quickstart/decoupled_crt

No published results: the data are generated.
"""

from ..common.data.sampling import class_balanced as _class_balanced
from ..common.heads.decoupled import decoupled_rcnn as _decoupled
from .softmax import dataloader, lr_multiplier, model, optimizer, train, tta

model.update(_decoupled)
dataloader.train.sampling = _class_balanced
train.max_iter = 200
train.init_checkpoint = "output/quickstart/softmax/model_final.pth"
