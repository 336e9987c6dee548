"""The baseline of configs/quickstart.py: softmax cross-entropy on a linear classifier.

python train_net.py --config-file configs/quickstart_softmax.py
"""

from .common.heads.classification import softmax as _softmax
from .quickstart import dataloader, lr_multiplier, model, optimizer, train, tta

model.roi_heads.box_predictor.update(_softmax)
train.output_dir = "output/quickstart_softmax"
