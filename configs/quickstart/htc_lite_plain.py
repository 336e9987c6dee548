"""The baseline of configs/quickstart/htc_lite.py: the same without the context encoder.

No published results: the data are generated. docs/model_zoo.md lists measured results.
"""

from detectron2.config import LazyCall as L

from d2_seesaw.modeling.roi_heads import LossDrivenCascadeROIHeads

from .htc_lite import dataloader, lr_multiplier, model, optimizer, train, tta

_left_out = ("_target_", "context_encoder")
model.roi_heads = L(LossDrivenCascadeROIHeads)(
    **{key: model.roi_heads[key] for key in model.roi_heads if key not in _left_out}
)
