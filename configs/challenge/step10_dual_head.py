"""Step 10 ("finetune"): one new classification branch per stage, all else frozen; 1x, RFS.

    python train_net.py --num-gpus 16 --config-file configs/challenge/step10_dual_head.py

Training starts from the model of step 9. The scores of the old and the new branch are averaged.

Paper, table 12: mask AP 37.3 (+0.5), APr 26.4, APc 36.3, APf 43.1, box AP 40.6.
Not yet run with this code.
"""

from ..common.data.sampling import repeat_factor as _repeat_factor
from ..common.heads.dual import model as _model
from ..common.heads.dual import tsd_box_head as _box_head
from ..common.heads.dual import tsd_box_predictor as _box_predictor
from ..common.schedule import multi_step_1x as lr_multiplier
from .step09_seesaw import dataloader, model, optimizer, train, tta

model.update(_model)
for _stage in model.roi_heads.box_heads:
    _stage.update(_box_head)
for _stage in model.roi_heads.box_predictors:
    _stage.update(_box_predictor)
    _stage.update(new_cls_score=_stage.cls_score, new_cls_loss=_stage.cls_loss)
model.backbone.bottom_up.pretrained = False
dataloader.train.sampling = _repeat_factor
train.epochs = 12
train.init_checkpoint = "output/challenge/step09_seesaw/model_final.pth"
