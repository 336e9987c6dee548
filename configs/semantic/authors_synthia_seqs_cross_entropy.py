"""SYNTHIA sequence 5 with the network and the training of Recall Loss's authors, cross-entropy.

No published results: the paper's abstract only gives the relative gain over it.
"""

from ..common.data.synthia_seqs_authors import dataloader
from ..common.recipes.recall_authors import lr_multiplier, model, optimizer, train

model.sem_seg_head.num_classes = 16
# Of BGR, from their loader.
model.pixel_mean = [55.09944, 62.203827, 71.23802]
model.pixel_std = [49.56111, 51.497387, 55.363934]
optimizer.lr = 1e-3
train.max_iter = 100_000
