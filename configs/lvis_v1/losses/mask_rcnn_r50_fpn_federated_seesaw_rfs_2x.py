"""Mask R-CNN R50-FPN, federated Seesaw Loss, repeat factor sampling, 2x.

No published results: this form of the loss is ours. Not yet run with this code.
"""

from detectron2.config import LazyCall as L

from d2_seesaw.modeling import FederatedRCNN

from ...common.heads.classification import federated_seesaw as _loss
from ..mask_rcnn_r50_fpn_softmax_rfs_2x import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
    tta,
)

model.roi_heads.box_predictor.update(_loss)
model.update(L(FederatedRCNN)())
