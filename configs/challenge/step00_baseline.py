"""Step 0 of the winning LVIS 2020 entry: Mask R-CNN R50-FPN, softmax, random sampling, 2x.

    python train_net.py --num-gpus 16 --config-file configs/challenge/step00_baseline.py

Paper, table 12: mask AP 18.7, APr 1.0, APc 16.1, APf 29.4, box AP 20.1.
Not yet run with this code.
"""

from ..common.conventions import train_as_detectron2 as _train_as_detectron2
from ..common.recipes.mask_rcnn_2x import dataloader, lr_multiplier, model, optimizer, train, tta

_train_as_detectron2(model, dataloader)
