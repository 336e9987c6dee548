"""Small Cascade Mask R-CNN with Seesaw Loss on the quickstart's data: minutes on a CPU.

    d2-seesaw generate instances
    python train_net.py --config-file configs/quickstart/cascade.py

The heads are the same as in configs/lvis_v1/cascade_mask_rcnn_r101_fpn_seesaw_norm_mask_rfs_2x.py;
everything else is the same as in configs/quickstart/seesaw.py.
No published results: the data are generated.
"""

from ..common.heads.classification import seesaw as _seesaw
from ..common.heads.mask import norm_mask_heads as _norm_mask_heads
from ..common.models.cascade_mask_rcnn_r50_fpn import model as _cascade
from .seesaw import dataloader, lr_multiplier, model, optimizer, train, tta

_small = model.roi_heads
_heads = _cascade.roi_heads
for _key in ("num_classes", "batch_size_per_image", "positive_fraction"):
    _heads[_key] = _small[_key]
for _box_head in _heads.box_heads:
    _box_head.update(_small.box_head)
for _predictor in _heads.box_predictors:
    _predictor.update(_seesaw)
    for _key in ("input_shape", "test_score_thresh", "test_topk_per_image"):
        _predictor[_key] = _small.box_predictor[_key]
_heads.mask_head = _norm_mask_heads
for _mask_head in _heads.mask_head:
    for _key in ("input_shape", "conv_dims"):
        _mask_head[_key] = _small.mask_head[_key]
model.roi_heads = _heads
