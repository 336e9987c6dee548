"""Semantic FPN on ResNet-50, Cityscapes, cross-entropy.

No published results: the recipe is our own.
"""

from ..common.models.semantic_fpn_r50 import model
from ..common.recipes.cityscapes_r50 import dataloader, lr_multiplier, optimizer, train
