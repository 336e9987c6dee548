"""configs/quickstart/seesaw.py where only verified classes compete.

No published results: the data are generated. docs/model_zoo.md lists measured results.
"""

from detectron2.config import LazyCall as L

from d2_seesaw.modeling import FederatedRCNN

from ...common.heads.classification import federated_seesaw as _loss
from ..seesaw import dataloader, lr_multiplier, model, optimizer, train, tta

model.roi_heads.box_predictor.update(_loss)
model.update(L(FederatedRCNN)())
