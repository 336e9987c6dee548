"""configs/quickstart_htc_lite.py without its context encoder: what the context is compared with.

python train_net.py --config-file configs/quickstart_htc_lite_plain.py
"""

from detectron2.config import LazyCall as L

from d2_seesaw.modeling.roi_heads import LossDrivenCascadeROIHeads

from .quickstart_htc_lite import dataloader, lr_multiplier, model, optimizer, train, tta

_left_out = ("_target_", "context_encoder")
model.roi_heads = L(LossDrivenCascadeROIHeads)(
    **{key: model.roi_heads[key] for key in model.roi_heads if key not in _left_out}
)
train.output_dir = "output/quickstart_htc_lite_plain"
