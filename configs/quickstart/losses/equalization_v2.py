"""configs/quickstart/seesaw.py with Equalization Loss v2 on a linear classifier.

No published results: the data are generated. docs/model_zoo.md lists measured results.
"""

from ...common.heads.classification import equalization_v2 as _loss
from ..seesaw import dataloader, lr_multiplier, model, optimizer, train, tta

model.roi_heads.box_predictor.update(_loss)
