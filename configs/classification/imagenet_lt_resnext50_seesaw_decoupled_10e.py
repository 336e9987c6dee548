"""Seesaw Loss in the second phase, after imagenet_lt_resnext50_softmax_90e, 10 epochs.

A new normalized classifier is trained with class-balanced sampling. The paper does not say which
sampling and length its second phase has; these are those of cRT by Kang et al.

Paper, table 10: accuracy 49.7, many 60.7, medium 46.8, few 28.9. Not yet run with this code.
"""

from ..common.heads.image_classification import seesaw as _seesaw
from .imagenet_lt_resnext50_softmax_crt_10e import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
)

model.update(_seesaw)
