"""configs/quickstart/classification_softmax.py with Seesaw Loss, on the same linear classifier.

The normalized classifier of the ImageNet-LT recipe learns slower: docs/classification.md compares.
No published results: the data are generated. docs/classification.md lists measured results.
"""

from ..common.heads.image_classification import seesaw as _seesaw
from .classification_softmax import dataloader, lr_multiplier, model, optimizer, train

model.loss = _seesaw.loss
