"""Hooks that save checkpoints: periodically, at the end, on demand, and the best by a metric."""

import errno
import logging
import math
import os
import re
from collections.abc import Callable, Iterable
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from d2_seesaw.checkpoint import StrictCheckpointer
from d2_seesaw.checkpoint.resuming import read_entries
from d2_seesaw.utils.files import WriteError
from d2_seesaw.utils.ranks import raise_on_all_ranks

logger = logging.getLogger(__name__)

BEST = "model_best"
_PERIODIC = re.compile(r"model_(\d{7,})\.pth")


class UnknownMetricError(ValueError):
    """Error for a metric that the evaluation does not produce."""


def is_evaluated(steps: int, eval_period: int) -> bool:
    """Return whether the model is evaluated after this number of steps, the last one aside."""
    return eval_period > 0 and steps % eval_period == 0


class CheckpointHook(HookBase):
    """Hook that saves ``model_ITERATION.pth`` periodically and ``model_final.pth`` at the end.

    It also saves before each evaluation.

    It differs from Detectron2's ``PeriodicCheckpointer`` in that it runs on all ranks, stops all of
    them if saving fails, and counts the files of earlier starts in ``max_to_keep``.

    Args:
        checkpointer: writes on the main process.
        period: number of steps between checkpoints.
        max_to_keep: number of periodic checkpoints to keep; None keeps all. An older one is deleted
            after the newer one is complete. ``model_final.pth`` and ``model_best.pth`` stay.
        eval_period: number of steps between evaluations, 0 for none.
        before_save: called on all ranks before each save and before each evaluation, so that a save
            during the evaluation needs no communication. Use it to gather the state of the ranks.
    """

    def __init__(
        self,
        checkpointer: StrictCheckpointer,
        *,
        period: int,
        max_to_keep: int | None = None,
        eval_period: int = 0,
        before_save: Iterable[Callable[[], Any]] = (),
    ) -> None:
        self.checkpointer = checkpointer
        self.period = int(period)
        self.max_to_keep = max_to_keep
        self.eval_period = eval_period
        self.before_save = list(before_save)
        self._completed = -1  # the last iteration of this process
        self._saved = ""

    def before_train(self) -> None:
        """Write the ``model_final.pth`` of a complete training that was killed before it."""
        steps, length = self.trainer.start_iter, self.trainer.max_iter
        if steps > length:
            logger.warning(
                "The checkpoint has %d steps and train.max_iter is %d: nothing is trained",
                *(steps, length),
            )
        folder = self.checkpointer.save_dir
        if 0 < length == steps and "://" not in folder:
            with raise_on_all_ranks():
                if not os.path.isfile(os.path.join(folder, "model_final.pth")):
                    self.checkpointer.save("model_final", iteration=steps - 1)

    def after_step(self) -> None:
        """Save if a checkpoint is due.

        Raises:
            WriteError: the checkpoint cannot be written. Earlier ones are kept.
            OtherRankError: another rank raised.
        """
        self._completed, self._saved = self.trainer.iter, ""
        done = self._completed + 1
        is_last = done >= self.trainer.max_iter
        is_due = done % self.period == 0
        # An evaluation may fail or be killed.
        is_due |= is_evaluated(done, self.eval_period) and not is_last
        if not (is_due or is_last):
            return
        self._gather()
        with raise_on_all_ranks():
            self._check_folder()
            if is_due:
                self._save(f"model_{self._completed:07d}")
            if is_last:
                self._save("model_final")

    def save_now(self, *, gather: bool = True) -> str:
        """Save the state after the last complete step, unless it has been saved.

        Args:
            gather: call ``before_save``, which every rank must then do. During an evaluation it has
                been called already.

        Returns:
            The path of the checkpoint; empty before the first step.
        """
        if self._completed < 0:
            return ""
        if not self._saved:
            if gather:
                self._gather()
            self._save(f"model_{self._completed:07d}")
        return self._saved

    def _check_folder(self) -> None:
        """Refuse to go on if the folder was removed, before an evaluation recreates it."""
        folder = self.checkpointer.save_dir
        if comm.is_main_process() and "://" not in folder and not os.path.isdir(folder):
            raise WriteError(errno.ENOENT, "the folder does not exist any more", folder)

    def _gather(self) -> None:
        for callback in self.before_save:
            callback()

    def _save(self, name: str) -> None:
        self.checkpointer.save(name, iteration=self._completed)
        self._saved = os.path.join(self.checkpointer.save_dir, f"{name}.pth")
        if self.max_to_keep is not None and comm.is_main_process():
            self._delete_older(self.max_to_keep)

    def _delete_older(self, number: int) -> None:
        """Delete all but the newest periodic checkpoints up to this iteration."""
        manager, folder = self.checkpointer.path_manager, self.checkpointer.save_dir
        matches = [m for name in manager.ls(folder) if (m := _PERIODIC.fullmatch(name))]
        # A later one was not readable at the start, or belongs to another model.
        ours = sorted((int(m[1]), m[0]) for m in matches if int(m[1]) <= self._completed)
        for _, name in ours[:-number]:
            try:
                manager.rm(os.path.join(folder, name))
            except OSError as error:
                logger.warning("%s is not needed but cannot be deleted: %s", name, error)


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
        """Save if the evaluation after the last step improved the metric."""
        if self.trainer.iter >= self.trainer.max_iter:  # otherwise training failed
            self._update(max(self.trainer.max_iter, self.trainer.start_iter) - 1)

    def _update(self, iteration: int) -> None:
        with raise_on_all_ranks():
            if comm.is_main_process() and (metrics := self._metrics_since(iteration)):
                self._keep_best(metrics, iteration)

    def _metrics_since(self, iteration: int) -> dict[str, float]:
        storage = self.trainer.storage
        smoothed = storage.smoothing_hints()
        # Metrics of evaluations are not smoothed, and are named after their task.
        return {
            name: float(value)
            for name, (value, at) in storage.latest().items()
            if at >= iteration and "/" in name and not smoothed[name]
        }

    def _keep_best(self, metrics: dict[str, float], iteration: int) -> None:
        if self.metric not in metrics:
            raise UnknownMetricError(
                f"train.best_checkpoint.metric: the evaluation has no {self.metric!r}, but "
                f"{', '.join(sorted(metrics))}"
            )
        value = metrics[self.metric]
        if not self._improves(value):
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

    def _improves(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        if self.best is None:
            return True
        return value > self.best["value"] if self.mode == "max" else value < self.best["value"]
