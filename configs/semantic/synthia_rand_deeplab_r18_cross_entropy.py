"""DeepLab v3+ on ResNet-18, SYNTHIA-RAND-CITYSCAPES, cross-entropy.

No published results: the recipe is our own.
"""

from ..common.data.synthia_rand import dataloader
from ..common.recipes.deeplab_r18 import lr_multiplier, model, optimizer, train

model.sem_seg_head.num_classes = 16
