"""Step 6: InstaBoost, long edges of 768 to 1792, crops of 1280, 45 epochs.

    python train_net.py --num-gpus 16 --config-file configs/challenge/step06_augmentation.py

Paper, table 12: mask AP 26.5 (+2.6), APr 3.6, APc 25.7, APf 37.4, box AP 28.1.
Not yet run with this code.
"""

from ..common.data.lvis_v1_challenge import dataloader as _dataloader
from ..common.schedule import multi_step_45_epochs as lr_multiplier
from .step05_mask_scoring import dataloader, model, optimizer, train, tta

dataloader.train.mapper = _dataloader.train.mapper
dataloader.train.num_workers = _dataloader.train.num_workers
train.epochs = 45
