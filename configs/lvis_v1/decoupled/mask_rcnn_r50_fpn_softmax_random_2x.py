"""First phase: Mask R-CNN R50-FPN, softmax cross-entropy, random sampling, 2x.

No published results in the sources that this project follows. Not yet run with this code.
"""

from ...common.recipes.mask_rcnn_2x import dataloader, lr_multiplier, model, optimizer, train, tta
