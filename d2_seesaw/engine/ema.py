"""Exponential moving average (EMA) of the weights during training.

Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992. The start is
that of TensorFlow's ``tf.train.ExponentialMovingAverage``.
"""

import copy
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.hooks import RemovableHandle


class EMAHook(HookBase):
    r"""Averages the weights after each optimiser step, and saves the average when training ends.

    .. math::
        \bar w_t = d_t \bar w_{t-1} + (1 - d_t) w_t, \quad
        d_t = \min\left(d, \frac{t}{t + 9}\right), \quad t = 1, 2, \dots

    The growing :math:`d_t` keeps the random start of a training out of its average. Trained
    parameters and floating-point buffers, such as the statistics of batch norm, are averaged;
    frozen parameters and integer buffers, such as the class counts of Seesaw Loss, are copied.

    Batches that are accumulated make one step together, and a step that float16's loss scale leaves
    out is none. Ranks do not communicate: they average weights that are equal on all of them. The
    average is saved and resumed with the trainer.

    Args:
        model: maybe wrapped in DDP; its weights are only read.
        output_dir: gets ``model_final_ema.pth``, which loads like any checkpoint of the model.
        decay: d, in [0, 1); 0 makes the average equal to the weights.
        warmup: False for :math:`d_t = d` from the first step on.
        metadata: saved beside the weights in that file, like in the checkpoints.

    Attributes:
        averaged: a second model with the averaged weights, in evaluation mode.
        steps: t, the optimiser steps averaged so far.

    Raises:
        ValueError: a decay out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        output_dir: str,
        *,
        decay: float = 0.9998,
        warmup: bool = True,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"train.ema.decay must be in [0, 1), got {decay}")
        self.model = model.module if isinstance(model, DistributedDataParallel) else model
        self.averaged = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.output_dir = output_dir
        self.decay = decay
        self.warmup = warmup
        self.metadata = dict(metadata or {})
        self.steps = 0
        self._registered: RemovableHandle | None = None

    def before_train(self) -> None:
        """Start from the weights that have been loaded, unless an average has been resumed."""
        if self.steps == 0:
            self.averaged.load_state_dict(self.model.state_dict())
        # Called for the steps that are taken, and before any other hook can look at the average.
        trainer: Any = self.trainer
        self._registered = trainer.optimizer.register_step_post_hook(self._after_optimizer)

    def _after_optimizer(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        # A fused optimiser is called after an overflow as well, and leaves out the step by itself.
        overflow = getattr(optimizer, "found_inf", None)
        if overflow is None or not overflow.item():
            self.update()

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights as they are now."""
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 9)) if self.warmup else self.decay
        averages, weights = [], []
        for average, weight, is_averaged in self._pairs():
            if is_averaged:
                averages.append(average)
                weights.append(weight)
            else:
                average.copy_(weight)
        get_ema_multi_avg_fn(decay)(averages, weights, self.steps)

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor, bool]]:
        """Each tensor of the average with that of the model, and whether it is averaged."""
        to = chain(self.averaged.parameters(), self.averaged.buffers())
        of = chain(self.model.parameters(), self.model.buffers())
        for average, weight in zip(to, of, strict=True):
            is_frozen = isinstance(weight, nn.Parameter) and not weight.requires_grad
            yield average, weight.detach(), weight.is_floating_point() and not is_frozen

    def after_step(self) -> None:
        """Write the file of the average after the last step."""
        if self.trainer.iter + 1 == self.trainer.max_iter and comm.is_main_process():
            path = Path(self.output_dir) / "model_final_ema.pth"
            extras = {"metadata": self.metadata} if self.metadata else {}
            torch.save({"model": self.averaged.state_dict(), **extras}, path)

    def after_train(self) -> None:
        """Let go of the optimiser."""
        if self._registered is not None:
            self._registered.remove()

    def state_dict(self) -> dict[str, Any]:
        """The average, and over how many steps."""
        return {"model": self.averaged.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with an average that was saved."""
        self.averaged.load_state_dict(state["model"])
        self.steps = state["steps"]
