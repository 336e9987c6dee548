"""Training of Detectron2's ViTDet project on LVIS v1: ViT-B, 100 epochs, 64 GPUs.

156,250 steps of 64 images, counted in epochs of 100,000 images without repeats. AdamW with layer
decay, mixed precision, MAE's weights.
"""

from detectron2.config import LazyCall as L

from d2_seesaw.engine import multi_step_with_warmup, train_options
from d2_seesaw.modeling import layer_decay

from ..data.lvis_v1_lsj import dataloader
from ..models.cascade_mask_rcnn_vitdet import federated, model, seesaw
from ..optim import adamw as optimizer
from ..tta import long_edge_1024 as tta

train = train_options(
    max_iter=156250,
    reference_world_size=64,
    eval_period=30000,
    init_checkpoint=(
        "detectron2://ImageNetPretrained/MAE/mae_pretrain_vit_base.pth?matching_heuristics=True"
    ),
)
train["amp"]["enabled"] = True
train["ddp"]["fp16_compression"] = True

lr_multiplier = L(multi_step_with_warmup)(
    milestones=[138889, 150463, 156250],
    warmup_iters=250,
    warmup_factor=1e-3,
    max_iter="${train.max_iter}",
)

optimizer.lr = 2e-4
optimizer.weight_decay = 0.1
optimizer.params.lr_factor_func = L(layer_decay)(rate=0.7, num_layers="${model.backbone.net.depth}")
optimizer.params.overrides = dict(pos_embed=dict(weight_decay=0.0))
