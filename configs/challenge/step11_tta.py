r"""Step 11: test-time augmentation, long edges of 1200 to 2000 and their mirror images.

    python train_net.py --num-gpus 16 --eval-only --tta \
        --config-file configs/challenge/step11_tta.py

Paper, table 12: mask AP 38.8 (+1.5), APr 26.4, APc 38.3, APf 44.9, box AP 41.5; test-dev 38.92.
Not yet run with this code.
"""

from ..common.tta import challenge as tta
from .step10_dual_head import dataloader, lr_multiplier, model, optimizer, train

train.init_checkpoint = "output/challenge/step10_dual_head/model_final.pth"
