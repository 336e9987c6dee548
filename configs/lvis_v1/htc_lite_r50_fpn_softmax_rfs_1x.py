r"""HTC-Lite R50-FPN, softmax cross-entropy, repeat factor sampling, 1x.

    python train_net.py --num-gpus 8 \
        --config-file configs/lvis_v1/htc_lite_r50_fpn_softmax_rfs_1x.py

Paper (table 13): mask AP 25.5, APr 15.0, APc 25.4, APf 30.3, box AP 28.0. What the paper does not
say of HTC-Lite is chosen in configs/common/models/htc_lite_r50_fpn.py. Ours is not yet run.
"""

from ..common.data.lvis_v1 import dataloader
from ..common.data.sampling import repeat_factor as _repeat_factor
from ..common.models.htc_lite_r50_fpn import model
from ..common.optim import sgd as optimizer
from ..common.schedule import multi_step_1x as lr_multiplier
from ..common.train import train
from ..common.tta import test_size_multiples as tta

dataloader.train.sampling = _repeat_factor
train.epochs = 12
train.output_dir = "output/htc_lite_r50_fpn_softmax_rfs_1x"
train.init_checkpoint = "torchvision://ResNet50_Weights.IMAGENET1K_V1"
