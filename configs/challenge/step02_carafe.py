"""Step 2: CARAFE upsampling in the mask head.

    python train_net.py --num-gpus 16 --config-file configs/challenge/step02_carafe.py

Paper, table 12: mask AP 19.4 (+0.5), APr 0.7, APc 16.5, APf 30.9, box AP 20.4.
Not yet run with this code.
"""

from d2_seesaw.modeling.roi_heads import CarafeMaskHead

from .step01_sync_bn import dataloader, lr_multiplier, model, optimizer, train, tta

model.roi_heads.mask_head._target_ = CarafeMaskHead
