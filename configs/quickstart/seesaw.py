"""Small Mask R-CNN with Seesaw Loss on generated long-tailed data: minutes on a CPU.

    d2-seesaw generate instances
    python train_net.py --config-file configs/quickstart/seesaw.py

The parts are the same as in configs/lvis_v1_seesaw.py; only sizes, schedule and data differ.
No published results: the data are generated. docs/model_zoo.md lists measured results.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import ResNet
from detectron2.modeling.backbone.resnet import BasicBlock

from d2_seesaw.data import RepeatFactorSampling
from d2_seesaw.engine import cosine_with_warmup

from ..common.data.lvis_v1 import dataloader
from ..common.heads.classification import seesaw as _seesaw
from ..common.heads.mask import norm_mask_head as _norm_mask_head
from ..common.models.mask_rcnn_r50_fpn import model
from ..common.optim import adamw as optimizer
from ..common.train import train
from ..common.tta import quickstart as tta

_CHANNELS = 64


def _stage(in_channels, out_channels, num_blocks=1, first_stride=2):
    return L(ResNet.make_stage)(
        block_class=BasicBlock,
        num_blocks=num_blocks,
        in_channels=in_channels,
        out_channels=out_channels,
        stride_per_block=[first_stride] + [1] * (num_blocks - 1),
        norm="BN",
    )


# For training from scratch: a narrow ResNet with trainable batch norm, and an FPN of 64 channels.
model.backbone.bottom_up.stem.update(out_channels=32, norm="BN")
model.backbone.bottom_up.stages = [
    _stage(32, 32, first_stride=1),
    _stage(32, 64),
    _stage(64, 128),
    _stage(128, 256),
]
model.backbone.bottom_up.freeze_at = 0
model.backbone.out_channels = _CHANNELS
model.backbone.norm = "BN"

model.proposal_generator.head.in_channels = _CHANNELS
model.proposal_generator.anchor_generator.sizes = [[16], [32], [64], [96], [128]]
model.proposal_generator.batch_size_per_image = 64
model.proposal_generator.pre_nms_topk = [400, 200]
model.proposal_generator.post_nms_topk = [150, 100]

_heads = model.roi_heads
_heads.num_classes = 20
_heads.batch_size_per_image = 48
_heads.positive_fraction = 0.33
_heads.box_head.input_shape.channels = _CHANNELS
_heads.box_head.fc_dims = [256]
_heads.box_predictor.input_shape.channels = 256
_heads.box_predictor.update(_seesaw)
_heads.box_predictor.test_score_thresh = 0.02
_heads.box_predictor.test_topk_per_image = 50
_heads.mask_head = _norm_mask_head
_heads.mask_head.input_shape.channels = _CHANNELS
_heads.mask_head.conv_dims = [_CHANNELS, _CHANNELS, _CHANNELS]

dataloader.train.dataset.names = "quickstart_train"
dataloader.train.sampling = L(RepeatFactorSampling)(threshold=0.05)
dataloader.train.mapper.augmentations = [L(T.RandomFlip)(horizontal=True)]
dataloader.train.total_batch_size = 8
dataloader.train.num_workers = 1
dataloader.test.dataset.names = "quickstart_val"
dataloader.test.mapper.augmentations = []
dataloader.test.num_workers = 1

optimizer.lr = 1e-3
lr_multiplier = L(cosine_with_warmup)(warmup_iters=50, max_iter="${train.max_iter}")

train.epochs = None
train.max_iter = 600
train.reference_world_size = 1
train.seed = 1
train.log_period = 20
train.channels_last = True
train.clip_grad.max_norm = 10.0
