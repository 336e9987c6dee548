"""Mask R-CNN with Seesaw Loss on LVIS v1, started from Detectron2's COCO model by class name.

    python train_net.py --config-file configs/fine_tuning/mask_rcnn_r50_fpn_seesaw_from_coco.py

For your own data, set the names of the datasets and model.roi_heads.num_classes; see
docs/fine_tuning.md. 12 epochs with a quarter of the usual learning rate. No published results: the
recipe is our own.
"""

from ..common.conventions import start_from_model_zoo as _start_from_model_zoo
from ..common.schedule import multi_step_1x as lr_multiplier
from ..lvis_v1_seesaw_detectron2 import dataloader, model, optimizer, train, tta

_start_from_model_zoo(model)
optimizer.lr = 0.005
train.epochs = 12
train.init_checkpoint = (
    "detectron2://COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl"
)
train.class_transfer = "by_name"
