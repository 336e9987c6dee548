"""Hybrid Task Cascade R50-FPN without its semantic branch on COCO 2017, 12 epochs.

    python train_net.py --num-gpus 8 \
        --config-file configs/coco/htc_without_semantic_r50_fpn_1x.py

The authors' slides of the LVIS 2020 challenge: box AP 41.5, mask AP 36.7; 42.5 and 37.8 for
HTC-Lite. Not yet run with this code.
"""

from ..common.data.coco import dataloader
from ..common.models.htc_r50_fpn import model
from ..common.optim import sgd as optimizer
from ..common.schedule import multi_step_1x as lr_multiplier
from ..common.train import train
from ..common.tta import test_size_multiples as tta

model.roi_heads.num_classes = 80
for _predictor in model.roi_heads.box_predictors:
    _predictor.update(test_score_thresh=1e-3, test_topk_per_image=100)  # as in mmdet's HTC
train.epochs = 12
train.init_checkpoint = "torchvision://ResNet50_Weights.IMAGENET1K_V1"
