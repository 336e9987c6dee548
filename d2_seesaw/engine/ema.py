"""Exponential moving average (EMA) of the weights during training.

Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992. The warm-up is
the same as in TensorFlow's ``tf.train.ExponentialMovingAverage``.
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

from d2_seesaw.checkpoint import save_weights


class EMAHook(HookBase):
    r"""Hook that averages the weights after each optimizer step and saves the average at the end.

    .. math::
        \bar w_t = d_t \bar w_{t-1} + (1 - d_t) w_t, \quad
        d_t = \min\left(d, \frac{t}{t + 9}\right), \quad t = 1, 2, \dots

    The growing :math:`d_t` keeps the random initial weights out of the average. Trained parameters
    and floating-point buffers, such as the statistics of batch norm, are averaged; frozen
    parameters and integer buffers, such as the class counts of Seesaw Loss, are copied.

    Accumulated batches count as one step. Steps that float16's loss scaling skips do not count.
    Ranks do not communicate: the weights that they average are equal. The average is saved and
    resumed with the trainer.

    Args:
        model: may be wrapped in DDP; its weights are only read.
        output_dir: folder for ``model_final_ema.pth``, which loads like any checkpoint.
        decay: d, in [0, 1); 0 makes the average equal to the weights.
        warmup: False for :math:`d_t = d` from the first step on.
        metadata: class metadata, saved in that file as in the checkpoints.

    Attributes:
        averaged: a second model with the averaged weights, in evaluation mode.
        steps: t, the number of optimizer steps averaged so far.

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
        self._is_resumed = False
        self._registered: RemovableHandle | None = None

    def before_train(self) -> None:
        """Start from the weights that have been loaded, unless an average has been resumed."""
        # Without a step, because float16 has skipped all so far, buffers may have changed already.
        if self.steps == 0 and not self._is_resumed:
            self.averaged.load_state_dict(self.model.state_dict())
        # This runs for the steps that are taken, before any other hook can read the average.
        trainer: Any = self.trainer
        self._registered = trainer.optimizer.register_step_post_hook(self._after_optimizer)

    def _after_optimizer(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        # A fused optimizer is also called after an overflow and skips the step itself.
        overflow = getattr(optimizer, "found_inf", None)
        if overflow is None or not overflow.item():
            self.update()

    @torch.no_grad()
    def update(self) -> None:
        """Move the average toward the current weights."""
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
        """Yield each tensor of the average with the model's tensor and whether it is averaged."""
        averages = chain(self.averaged.parameters(), self.averaged.buffers())
        weights = chain(self.model.parameters(), self.model.buffers())
        of_losses = {
            id(buffer)
            for module in self.model.modules()
            if type(module).__module__.startswith("d2_seesaw.losses.")
            for buffer in module.buffers()
        }
        for average, weight in zip(averages, weights, strict=True):
            is_frozen = isinstance(weight, nn.Parameter) and not weight.requires_grad
            is_copied = is_frozen or id(weight) in of_losses
            yield average, weight.detach(), weight.is_floating_point() and not is_copied

    def after_step(self) -> None:
        """Write the file of the average after the last step."""
        if self.trainer.iter + 1 == self.trainer.max_iter:
            self.save_final()

    def save_final(self, iteration: int = -1) -> None:
        """Write the file of the average on the main process; the iteration has no effect."""
        if comm.is_main_process():
            path = Path(self.output_dir) / "model_final_ema.pth"
            save_weights(path, self.averaged.state_dict(), self.metadata, make_folder=False)

    def after_train(self) -> None:
        """Remove the hook on the optimizer."""
        if self._registered is not None:
            self._registered.remove()

    def state_dict(self) -> dict[str, Any]:
        """Return the average and its number of steps."""
        return {"model": self.averaged.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue a saved average."""
        self.averaged.load_state_dict(state["model"])
        self.steps = state["steps"]
        self._is_resumed = True
