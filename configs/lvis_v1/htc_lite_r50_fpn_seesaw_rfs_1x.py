r"""HTC-Lite R50-FPN, Seesaw Loss, repeat factor sampling, 1x.

    python train_net.py --num-gpus 8 \
        --config-file configs/lvis_v1/htc_lite_r50_fpn_seesaw_rfs_1x.py

No published number. Ours is not yet run.
"""

from ..common.data.lvis_v1 import dataloader
from ..common.data.sampling import repeat_factor as _repeat_factor
from ..common.heads.classification import seesaw as _seesaw
from ..common.models.htc_lite_r50_fpn import model
from ..common.optim import sgd as optimizer
from ..common.schedule import multi_step_1x as lr_multiplier
from ..common.train import train
from ..common.tta import test_size_multiples as tta

for _predictor in model.roi_heads.box_predictors:
    _predictor.update(_seesaw)
dataloader.train.sampling = _repeat_factor
train.epochs = 12
train.output_dir = "output/htc_lite_r50_fpn_seesaw_rfs_1x"
train.init_checkpoint = "torchvision://ResNet50_Weights.IMAGENET1K_V1"
