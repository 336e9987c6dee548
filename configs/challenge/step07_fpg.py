"""Step 7: enhanced FPG, a grid with CARAFE++ down and deformable convolutions up.

    python train_net.py --num-gpus 16 --config-file configs/challenge/step07_fpg.py

Paper, table 12: mask AP 27.0 (+0.5), APr 3.5, APc 25.8, APf 38.6, box AP 29.1.
Not yet run with this code.
"""

from detectron2.config import LazyCall as L

from d2_seesaw.modeling import FPG

from .step06_augmentation import dataloader, lr_multiplier, model, optimizer, train, tta

model.backbone = L(FPG)(
    bottom_up=model.backbone.bottom_up,
    in_features="${.bottom_up.out_features}",
    out_channels=256,
    norm="SyncBN",
    stack=9,
    down="carafe",
    up_conv="dcnv2",
    activation_checkpointing=True,
)
