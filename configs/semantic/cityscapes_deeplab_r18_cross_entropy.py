"""DeepLab v3+ on ResNet-18, Cityscapes, cross-entropy.

The training settings are those of Recall Loss's authors. No published number: the paper's abstract
compares SYNTHIA alone.
"""

from ..common.data.cityscapes import dataloader
from ..common.recipes.deeplab_r18 import lr_multiplier, model, optimizer, train
