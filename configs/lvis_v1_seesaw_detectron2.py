"""The flagship recipe, trained as Detectron2 trains its models instead of as mmdet.

    python train_net.py --config-file configs/lvis_v1_seesaw_detectron2.py --num-gpus 8

No published results: those of configs/lvis_v1_seesaw.py are of models trained with mmdet. See
configs/common/conventions.py for the differences.
"""

from .common.conventions import train_as_detectron2 as _train_as_detectron2
from .lvis_v1_seesaw import dataloader, lr_multiplier, model, optimizer, train, tta

_train_as_detectron2(model, dataloader)
