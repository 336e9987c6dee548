"""configs/quickstart/seesaw.py with balanced group softmax (BAGS).

No published results: the data are generated. docs/model_zoo.md lists measured results.
"""

from ...common.heads.classification import balanced_group_softmax as _loss
from ..seesaw import dataloader, lr_multiplier, model, optimizer, train, tta

model.roi_heads.box_predictor.update(_loss)
