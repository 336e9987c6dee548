"""configs/challenge/step11_tta.py, small: on the quickstart's data, on a CPU."""

from ..challenge.step11_tta import dataloader, model, train, tta
from ..common.small_challenge import lr_multiplier, optimizer
from ..common.small_challenge import shrink as _shrink

_shrink(dataloader, model, train, tta)
