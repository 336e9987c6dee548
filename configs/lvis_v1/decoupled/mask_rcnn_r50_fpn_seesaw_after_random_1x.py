"""Second phase with Seesaw Loss after softmax with random sampling: the last layer alone, 1x.

A new normalized classifier with objectness is trained with repeat factor sampling. The paper does
not say which sampling its second phase has.

Paper, table 9: mask AP 25.1; trained end-to-end, 26.4. Not yet run with this code.
"""

from ...common.data.sampling import repeat_factor as _repeat_factor
from ...common.heads.classification import seesaw as _seesaw
from ...common.heads.decoupled import decoupled_rcnn as _decoupled
from ...common.schedule import multi_step_1x as lr_multiplier
from .mask_rcnn_r50_fpn_softmax_random_2x import dataloader, model, optimizer, train, tta

model.update(_decoupled)
model.roi_heads.box_predictor.update(_seesaw)
dataloader.train.sampling = _repeat_factor
train.epochs = 12
train.init_checkpoint = (
    "output/lvis_v1/decoupled/mask_rcnn_r50_fpn_softmax_random_2x/model_final.pth"
)
