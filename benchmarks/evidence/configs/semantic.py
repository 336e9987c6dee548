"""Semantic FPN with cross-entropy on a pretrained MobileNetV2, for the evidence.

Everything is trained, norms included. Logits have stride 4 and are upsampled to the size of the
image for the loss, as for the predictions. The schedule is that of
configs/quickstart/semantic_cross_entropy.py.
"""

from ....configs.common.models.mask_rcnn_torchvision_fpn import model as _pretrained
from ....configs.quickstart.semantic_cross_entropy import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
)

model.backbone.bottom_up = _pretrained.backbone.bottom_up
model.backbone.bottom_up.update(freeze_at=0, norm="BN")
train.init_checkpoint = "torchvision://MobileNet_V2_Weights.IMAGENET1K_V1"
