"""Learnable weight scaling (LWS) after configs/quickstart/classification_softmax.py.

No published results: the data are generated. docs/classification.md lists measured results.
"""

from .classification_crt import dataloader, lr_multiplier, model, optimizer, train

model.init = "scale"
