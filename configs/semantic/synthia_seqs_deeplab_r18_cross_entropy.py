"""DeepLab v3+ on ResNet-18, SYNTHIA sequence 5 in summer, cross-entropy.

No published results: the recipe is our own. authors_synthia_seqs_* train as Recall Loss's authors.
"""

from ..common.data.synthia_seqs import dataloader
from ..common.recipes.deeplab_r18 import lr_multiplier, model, optimizer, train

model.sem_seg_head.num_classes = 13
optimizer.lr = 1e-3
train.max_iter = 100_000
