"""Mask R-CNN R50-FPN, federated loss, repeat factor sampling, 2x.

No published results of this setting: Detectron2's and CenterNet2's federated models have other
backbones, detectors and schedules. Not yet run with this code.
"""

from ...common.heads.classification import federated as _loss
from ..mask_rcnn_r50_fpn_softmax_rfs_2x import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
    tta,
)

model.roi_heads.box_predictor.update(_loss)
