"""Cityscapes with the network and the training of Recall Loss's authors, cross-entropy.

No published results: the paper's abstract compares losses on SYNTHIA only.
"""

from ..common.data.cityscapes_authors import dataloader
from ..common.recipes.recall_authors import lr_multiplier, model, optimizer, train

optimizer.lr = 1e-4
train.max_iter = 90_000
