r"""Tau-normalization of imagenet_lt_resnext50_softmax_90e, which needs no training.

    d2-seesaw train --eval-only dataloader.test.dataset.names=imagenet_lt_test \
        --config-file classification/imagenet_lt_resnext50_softmax_tau_normalized \
        train.init_checkpoint=output/classification/imagenet_lt_resnext50_softmax_90e/model_final.pth

Choose model.classifier.tau on imagenet_lt_val; the authors' code tries 0, 0.1, ..., 2.
Paper, table 10: accuracy 49.4, many 59.1, medium 46.9, few 30.7, after Kang et al. (ICLR 2020). Not
yet run with this code.
"""

from ..common.heads.image_classification import tau_normalized as _tau_normalized
from .imagenet_lt_resnext50_softmax_90e import dataloader, lr_multiplier, model, optimizer, train

model.update(_tau_normalized)
