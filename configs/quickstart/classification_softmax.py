"""Small ResNet with softmax cross-entropy on generated long-tailed pictures: minutes on a CPU.

    d2-seesaw generate classification
    d2-seesaw train --config-file quickstart/classification_softmax

The parts are the same as in configs/classification/; only sizes, schedule and data differ.
No published results: the data are generated. docs/classification.md lists measured results.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone import ResNet
from detectron2.modeling.backbone.resnet import BasicBlock

from ..common.recipes.imagenet_lt_90e import dataloader, lr_multiplier, model, optimizer, train


def _stage(in_channels, out_channels, first_stride=2):
    return L(ResNet.make_stage)(
        block_class=BasicBlock,
        num_blocks=1,
        in_channels=in_channels,
        out_channels=out_channels,
        stride_per_block=[first_stride],
        norm="BN",
    )


model.backbone.stem.out_channels = 32
model.backbone.stages = [_stage(32, 32, first_stride=1), _stage(32, 64), _stage(64, 128)]
model.backbone.out_features = ["res4"]
model.num_classes = 20

dataloader.train.dataset.names = "classification_quickstart_train"
dataloader.train.mapper.transforms[0].size = 40
dataloader.train.mapper.transforms[0].scale = [0.5, 1.0]
dataloader.train.total_batch_size = 32
dataloader.train.num_workers = 1
dataloader.test.dataset.names = "classification_quickstart_val"
dataloader.test.mapper.transforms[0].size = 44
dataloader.test.mapper.transforms[1].size = 40
dataloader.test.num_workers = 1

optimizer.lr = 0.05
train.epochs = 30
train.eval_period = 330
train.reference_world_size = 1
train.seed = 1
