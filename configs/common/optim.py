from detectron2.config import LazyCall as L
from detectron2.solver.build import get_default_optimizer_params
from torch.optim import SGD, Adam, AdamW

# Weight decay on all parameters, including biases and norms.
sgd = L(SGD)(
    params=L(get_default_optimizer_params)(),
    lr=0.02,
    momentum=0.9,
    weight_decay=1e-4,
)

adamw = L(AdamW)(
    params=L(get_default_optimizer_params)(base_lr="${..lr}", weight_decay_norm=0.0),
    lr=1e-4,
    betas=(0.9, 0.999),
    weight_decay=0.05,
)

adam = L(Adam)(params=L(get_default_optimizer_params)(), lr=1e-4)
