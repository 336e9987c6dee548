"""configs/quickstart/seesaw.py with the federated loss on a linear classifier.

No published results: the data are generated. docs/model_zoo.md lists measured results.
"""

from ...common.heads.classification import federated as _loss
from ..seesaw import dataloader, lr_multiplier, model, optimizer, train, tta

model.roi_heads.box_predictor.update(_loss)
# 10 of 20 classes: at least half of the classes that a batch lacks are left out.
model.roi_heads.box_predictor.cls_loss.num_sampled = 10
