"""DeepLab v3+ on ResNet-18, Cityscapes, cross-entropy.

The training settings follow Recall Loss's authors. No published results: the paper's abstract
compares losses on SYNTHIA only.
"""

from ..common.data.cityscapes import dataloader
from ..common.recipes.deeplab_r18 import lr_multiplier, model, optimizer, train
