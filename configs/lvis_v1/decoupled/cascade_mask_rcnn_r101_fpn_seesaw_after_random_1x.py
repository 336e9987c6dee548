"""Second phase with Seesaw Loss in all stages of a cascade, after softmax with random sampling, 1x.

No published results of this setting. Not yet run with this code.
"""

from ...common.data.sampling import repeat_factor as _repeat_factor
from ...common.heads.classification import seesaw as _seesaw
from ...common.heads.decoupled import decoupled_rcnn as _decoupled
from ...common.schedule import multi_step_1x as lr_multiplier
from ..cascade_mask_rcnn_r101_fpn_softmax_random_2x import dataloader, model, optimizer, train, tta

model.update(_decoupled)
for _predictor in model.roi_heads.box_predictors:
    _predictor.update(_seesaw)
dataloader.train.sampling = _repeat_factor
train.epochs = 12
train.init_checkpoint = (
    "output/lvis_v1/cascade_mask_rcnn_r101_fpn_softmax_random_2x/model_final.pth"
)
