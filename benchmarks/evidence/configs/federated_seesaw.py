"""instances.py where only verified classes compete, with the same head."""

from detectron2.config import LazyCall as L

from d2_seesaw.modeling import FederatedRCNN

from .instances import dataloader, lr_multiplier, model, optimizer, train

model.update(L(FederatedRCNN)())
