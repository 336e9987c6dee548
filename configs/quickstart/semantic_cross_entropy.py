"""Small Semantic FPN with cross-entropy on generated long-tailed scenes: two minutes on a CPU.

    d2-seesaw generate semantic
    python train_net.py --config-file configs/quickstart/semantic_cross_entropy.py

The parts are the same as in configs/semantic/; only sizes, schedule and data differ.
No published results: the data are generated. docs/semantic.md lists measured results.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.modeling.backbone import ResNet
from detectron2.modeling.backbone.resnet import BasicBlock

from d2_seesaw.engine import cosine_with_warmup

from ..common.data.cityscapes import dataloader
from ..common.models.semantic_fpn_r50 import model
from ..common.optim import adamw as optimizer
from ..common.train import train

_CHANNELS = 64


def _stage(in_channels, out_channels, first_stride=2):
    return L(ResNet.make_stage)(
        block_class=BasicBlock,
        num_blocks=1,
        in_channels=in_channels,
        out_channels=out_channels,
        stride_per_block=[first_stride],
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
model.sem_seg_head.num_classes = 12
model.sem_seg_head.conv_dims = _CHANNELS
model.sem_seg_head.norm = "BN"

dataloader.train.dataset.names = "semantic_quickstart_train"
dataloader.train.mapper.augmentations = [L(T.RandomFlip)(horizontal=True)]
dataloader.train.total_batch_size = 4
dataloader.train.num_workers = 1
dataloader.test.dataset.names = "semantic_quickstart_val"
dataloader.test.num_workers = 1

optimizer.lr = 1e-3
lr_multiplier = L(cosine_with_warmup)(warmup_iters=50, max_iter="${train.max_iter}")

train.epochs = None
train.max_iter = 800
train.reference_world_size = 1
train.seed = 1
train.log_period = 20
train.clip_grad.max_norm = 10.0
