"""configs/challenge/step10_dual_head.py, small: on the quickstart's data, on a CPU."""

from ..challenge.step10_dual_head import dataloader, model, train, tta
from ..common.small_challenge import lr_multiplier, optimizer
from ..common.small_challenge import shrink as _shrink

_shrink(dataloader, model, train, tta)
