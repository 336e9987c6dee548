"""configs/quickstart/seesaw.py with Effective Class-Margin Loss.

No published results: the data are generated. docs/model_zoo.md lists measured results.
"""

from ...common.heads.classification import ecm as _loss
from ..seesaw import dataloader, lr_multiplier, model, optimizer, train, tta

model.roi_heads.box_predictor.update(_loss)
