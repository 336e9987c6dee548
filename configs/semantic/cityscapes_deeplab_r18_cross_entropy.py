"""DeepLab v3+ on ResNet-18, Cityscapes, cross-entropy.

No published results: the recipe is our own. authors_cityscapes_* train as Recall Loss's authors.
"""

from ..common.data.cityscapes import dataloader
from ..common.recipes.deeplab_r18 import lr_multiplier, model, optimizer, train
