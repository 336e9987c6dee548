"""Step 8: ResNeSt-200 with deformable convolutions.

    python train_net.py --num-gpus 16 --config-file configs/challenge/step08_resnest200_dcn.py

Needs `pip install timm`. Training starts from timm's ImageNet weights.

Paper, table 12: mask AP 29.9 (+2.9), APr 4.2, APc 29.4, APf 41.8, box AP 32.1.
Not yet run with this code.
"""

from ..common.backbones.resnest import resnest_200_dcn as _resnest
from .step07_fpg import dataloader, lr_multiplier, model, optimizer, train, tta

model.backbone.bottom_up = _resnest
model.backbone.bottom_up.pretrained = True
model.backbone.bottom_up.checkpoint = True
train.init_checkpoint = ""
