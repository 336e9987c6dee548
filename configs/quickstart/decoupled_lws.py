"""Learnable weight scaling (LWS) after configs/quickstart/softmax.py, class-balanced.

No published results: the data are generated.
"""

from .decoupled_crt import dataloader, lr_multiplier, model, optimizer, train, tta

model.init = "scale"
