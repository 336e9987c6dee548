"""DeepLab v3+ on ResNet-18, SYNTHIA sequence 5 in summer, cross-entropy: the authors' settings.

python train_net.py --config-file configs/semantic/synthia_seqs_deeplab_r18_cross_entropy.py
"""

from ..common.data.synthia_seqs import dataloader
from ..common.models.deeplab_v3_plus_r18 import model
from ..common.optim import adam as optimizer
from ..common.schedule import constant as lr_multiplier
from ..common.train import train

model.sem_seg_head.num_classes = 13
optimizer.lr = 1e-3
train.init_checkpoint = "torchvision://ResNet18_Weights.IMAGENET1K_V1"
train.epochs = None
train.max_iter = 100_000
train.eval_period = 5000
train.reference_world_size = 1
train.output_dir = "output/semantic/synthia_seqs_deeplab_r18_cross_entropy"
