"""Early stopping: the end of a training whose evaluations no longer improve.

The rule is that of Keras and PyTorch Lightning: Prechelt, "Early Stopping - But When?", 1998,
describes such criteria.
"""

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from d2_seesaw.engine.checkpointing import is_evaluated
from d2_seesaw.engine.monitoring.metric import is_better, metric_of, metrics_since
from d2_seesaw.utils.ranks import from_first_rank, raise_on_all_ranks

logger = logging.getLogger(__name__)

OPTION = "train.early_stopping"


@dataclass
class Patience:
    """Rule that ends a training after a number of evaluations without an improvement.

    An evaluation improves on the best value if it is better by more than ``min_delta``. Only then
    it becomes the best value, so small gains add up. A value that is not finite is no improvement.

    Args:
        patience: number of evaluations in a row.
        min_delta: least improvement, at least 0, in the unit of the metric.
        mode: ``"max"`` or ``"min"``.

    Attributes:
        best: best value; None before the first finite one.
        best_steps: steps trained at the best value.
        steps: steps trained at the last evaluation that was counted.
        waited: evaluations since the best one.
    """

    patience: int
    min_delta: float = 0.0
    mode: str = "max"
    best: float | None = field(default=None, init=False)
    best_steps: int = field(default=0, init=False)
    steps: int = field(default=0, init=False)
    waited: int = field(default=0, init=False)

    def count(self, value: float, steps: int) -> None:
        """Count an evaluation. One that has been counted already has no effect.

        Args:
            value: the metric.
            steps: number of steps trained.
        """
        if steps <= self.steps:
            return
        self.steps = steps
        if is_better(value, self.best, self.mode, by=self.min_delta):
            self.best, self.best_steps, self.waited = value, steps, 0
        else:
            self.waited += 1

    @property
    def is_exhausted(self) -> bool:
        """Whether training ends."""
        return self.waited >= self.patience


_STATE = ("best", "best_steps", "steps", "waited")


class EarlyStopping(HookBase):
    """Hook that ends training when a metric has not improved for some evaluations.

    Register it behind the hook that evaluates, with
    :meth:`~d2_seesaw.engine.Trainer.register_hooks_after_checkpoint`. Its state is saved with the
    trainer, so a resumed training ends after the same step. If a training that ended early is
    resumed, it ends at once, unless ``patience`` is larger than before.

    Args:
        metric: name of a metric of the evaluation, such as ``"segm/AP"`` or ``"ema/segm/AP"``.
        patience: number of evaluations in a row without an improvement.
        min_delta: least improvement.
        mode: ``"max"`` or ``"min"``.
        eval_period: number of steps between evaluations.
        at_end: called on every rank with the last iteration, to write the files that a training
            writes at its regular end.

    Attributes:
        rule: best value and number of evaluations since.

    Raises:
        ValueError: there are no evaluations during training.
    """

    def __init__(
        self,
        metric: str,
        patience: int = 5,
        min_delta: float = 0.0,
        mode: str = "max",
        *,
        eval_period: int,
        at_end: Iterable[Callable[[int], Any]] = (),
    ) -> None:
        if eval_period < 1:
            raise ValueError(
                f"{OPTION}.metric={metric} needs evaluations during the training: give "
                "train.eval_period, a number of steps"
            )
        self.metric = metric
        self.rule = Patience(patience, min_delta, mode)
        self.eval_period = eval_period
        self.at_end = list(at_end)

    def before_train(self) -> None:
        """End a training at once that ended early before it was resumed."""
        trainer: Any = self.trainer
        start = trainer.start_iter
        earliest = (self.rule.patience + 1) * self.eval_period
        if earliest >= trainer.max_iter and comm.is_main_process():
            logger.warning(
                "%s has no effect in a training of %d steps: it can end training after %d steps at "
                "the earliest",
                *(OPTION, trainer.max_iter, earliest),
            )
        if 0 < start < trainer.max_iter and self.rule.is_exhausted:
            logger.warning(
                "This training has stopped early, so nothing is trained: %s. To continue it, give "
                "%s.patience of at least %d, or %s.metric=null",
                *(self._reason(), OPTION, self.rule.waited + 1, OPTION),
            )
            self._end(start - 1)

    def after_step(self) -> None:
        """Count an evaluation of this step, and end training if the patience is exhausted.

        Raises:
            UnknownMetricError: the evaluation does not produce the metric; the message lists those
                that it produces.
            OtherRankError: the main process raised.
        """
        trainer: Any = self.trainer
        steps = trainer.iter + 1
        if not is_evaluated(steps, self.eval_period) or steps >= trainer.max_iter:
            return
        value = math.nan
        with raise_on_all_ranks():
            if comm.is_main_process():
                metrics = metrics_since(trainer.storage, trainer.iter)
                value = metric_of(metrics, self.metric, f"{OPTION}.metric")
        self.rule.count(from_first_rank(value), steps)
        if self.rule.is_exhausted:
            logger.info(
                "Training stops early, after step %d of %d: %s",
                *(steps, trainer.max_iter, self._reason()),
            )
            self._end(trainer.iter)

    def _reason(self) -> str:
        rule = self.rule
        by = f" by more than {rule.min_delta:g}" if rule.min_delta else ""
        best = ""
        if rule.best is not None:
            best = f"; the best value was {rule.best:.4f} after step {rule.best_steps}"
        return f"{self.metric} has not improved{by} in {rule.waited} evaluations{best}"

    def _end(self, iteration: int) -> None:
        trainer: Any = self.trainer
        trainer.end_after(iteration)
        for call in self.at_end:
            call(iteration)

    def state_dict(self) -> dict[str, Any]:
        """Return best value and number of evaluations since, as plain values."""
        state = asdict(self.rule)
        return {"metric": self.metric, **{key: state[key] for key in ("mode", *_STATE)}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue to count, unless another metric was followed before."""
        followed = state_dict["metric"], state_dict["mode"]
        if followed != (self.metric, self.rule.mode):
            logger.warning(
                "%s followed %s (%s) before, and starts anew with %s (%s)",
                *(OPTION, *followed, self.metric, self.rule.mode),
            )
            return
        for key in _STATE:
            setattr(self.rule, key, state_dict[key])
