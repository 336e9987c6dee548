"""configs/quickstart/classification_softmax.py with Seesaw Loss and a normalized classifier.

No published results: the data are generated. docs/classification.md lists measured results.
"""

from ..common.heads.image_classification import seesaw as _seesaw
from .classification_softmax import dataloader, lr_multiplier, model, optimizer, train

model.update(_seesaw)
