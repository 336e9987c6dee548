"""DeepLab v3+ on ResNet-18, SYNTHIA sequence 5 in summer, cross-entropy.

The training settings follow Recall Loss's authors. No published results: the paper's abstract
only gives the relative gain over it.
"""

from ..common.data.synthia_seqs import dataloader
from ..common.recipes.deeplab_r18 import lr_multiplier, model, optimizer, train

model.sem_seg_head.num_classes = 13
optimizer.lr = 1e-3
train.max_iter = 100_000
