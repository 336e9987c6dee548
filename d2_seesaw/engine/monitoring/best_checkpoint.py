"""Hook that keeps the best checkpoint by a metric."""

import logging
import math
import os
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from d2_seesaw.checkpoint import StrictCheckpointer
from d2_seesaw.checkpoint.resuming import read_entries
from d2_seesaw.engine.checkpointing import is_evaluated
from d2_seesaw.engine.monitoring.metric import is_better, metric_of, metrics_since
from d2_seesaw.utils.ranks import raise_on_all_ranks

logger = logging.getLogger(__name__)

BEST = "model_best"


class BestCheckpoint(HookBase):
    """Hook that keeps the checkpoint with the best value of a metric as ``model_best.pth``.

    The file holds ``best``, a dictionary of ``metric``, ``mode``, ``value`` and ``iteration``, so a
    resumed training continues with it. Register the hook after the one that evaluates.

    Args:
        checkpointer: writes on the main process.
        metric: name of a metric of the evaluation, such as ``"segm/APr"`` or ``"ema/segm/AP"``.
        mode: ``"max"`` or ``"min"``.
        eval_period: number of steps between evaluations, 0 for one after the last step.

    Attributes:
        best: the dictionary above; None before the first evaluation.
    """

    def __init__(
        self,
        checkpointer: StrictCheckpointer,
        metric: str,
        mode: str = "max",
        *,
        eval_period: int = 0,
    ) -> None:
        self.checkpointer = checkpointer
        self.metric = metric
        self.mode = mode
        self.eval_period = eval_period
        self.best: dict[str, Any] | None = None

    def before_train(self) -> None:
        """Continue with the best value of the file, if it is one of the same metric.

        An evaluation that a resumed training repeats before its first step counts as well.
        """
        if self.trainer.start_iter > 0:
            if comm.is_main_process():
                self._read()
            self._update(self.trainer.start_iter - 1)

    def _read(self) -> None:
        self.best = None
        path = os.path.join(self.checkpointer.save_dir, f"{BEST}.pth")
        if not os.path.isfile(path):
            return
        try:
            saved = read_entries(path)["best"]
            same = (saved["metric"], saved["mode"]) == (self.metric, self.mode)
            value = float(saved["value"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s cannot be read, the next evaluation replaces it: %s", path, error)
            return
        if same and math.isfinite(value):
            self.best = dict(saved)
        else:
            logger.warning(
                "%s is the best by %s (%s): the next evaluation replaces it, by %s (%s)",
                *(path, saved["metric"], saved["mode"], self.metric, self.mode),
            )

    def after_step(self) -> None:
        """Save if an evaluation at this step improved the metric.

        Raises:
            UnknownMetricError: the evaluation does not produce the metric; the message lists those
                that it produces.
            WriteError: the checkpoint cannot be written.
            OtherRankError: the main process raised.
        """
        done = self.trainer.iter + 1
        if is_evaluated(done, self.eval_period) and done < self.trainer.max_iter:
            self._update(self.trainer.iter)

    def after_train(self) -> None:
        """Save if the evaluation after the last step improved the metric, and log the best one."""
        if self.trainer.iter < self.trainer.max_iter:  # training failed
            return
        self._update(max(self.trainer.max_iter, self.trainer.start_iter) - 1)
        if self.best is not None:  # on the main process
            logger.info(
                "The best checkpoint is %s: %s %.4f after step %d",
                os.path.join(self.checkpointer.save_dir, f"{BEST}.pth"),
                *(self.metric, self.best["value"], self.best["iteration"] + 1),
            )

    def _update(self, iteration: int) -> None:
        with raise_on_all_ranks():
            if comm.is_main_process() and (
                metrics := metrics_since(self.trainer.storage, iteration)
            ):
                self._keep_best(metrics, iteration)

    def _keep_best(self, metrics: dict[str, float], iteration: int) -> None:
        value = metric_of(metrics, self.metric, "train.best_checkpoint.metric")
        best = None if self.best is None else self.best["value"]
        if not is_better(value, best, self.mode):
            return
        self.best = {
            "metric": self.metric,
            "mode": self.mode,
            "value": value,
            "iteration": iteration,
        }
        # After the last step, Detectron2 counts one iteration more.
        state = self.checkpointer.checkpointables["trainer"].state_dict() | {"iteration": iteration}
        self.checkpointer.save(
            BEST, tag=False, iteration=iteration, trainer=state, best=dict(self.best)
        )
        logger.info("%s.pth: %s %.4f at iteration %d", BEST, self.metric, value, iteration)
