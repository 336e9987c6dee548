"""Small version of the winning LVIS 2020 entry up to Seesaw Loss, on the quickstart's data.

    d2-seesaw generate instances
    python train_net.py --config-file configs/quickstart/challenge.py

This is step 9 of configs/challenge/, the last one that trains a whole model, for a CPU. Needs `pip
install timm`. Other steps can be shrunk in the same way, in a config of your own. Step 10, the dual
head, starts from the model of this config:
train.init_checkpoint=output/quickstart/challenge/model_final.pth.
No published results: the data are generated.
"""

from typing import cast

from detectron2.config import LazyConfig
from omegaconf import DictConfig

from d2_seesaw.engine.shrink import shrink

_step = cast(DictConfig, LazyConfig.load_rel("../challenge/step09_seesaw.py"))
_small = shrink(_step, cast(DictConfig, LazyConfig.load_rel("seesaw.py")))

dataloader = _small.dataloader
lr_multiplier = _small.lr_multiplier
model = _small.model
optimizer = _small.optimizer
train = _small.train
tta = _small.tta
