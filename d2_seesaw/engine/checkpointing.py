"""Hook that saves checkpoints: periodically, at the end and on demand."""

import errno
import logging
import os
import re
from collections.abc import Callable, Iterable
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from d2_seesaw.checkpoint import StrictCheckpointer
from d2_seesaw.checkpoint.resuming import read_iteration
from d2_seesaw.utils.files import WriteError
from d2_seesaw.utils.ranks import raise_on_all_ranks

logger = logging.getLogger(__name__)

_PERIODIC = re.compile(r"model_(\d{7,})\.pth")


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
        if 0 < length == steps and "://" not in self.checkpointer.save_dir:
            self.save_final(steps - 1)

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

    def save_final(self, iteration: int) -> None:
        """Write ``model_final.pth`` after an iteration that is the last one, unless it exists.

        Every rank must call this.

        Args:
            iteration: the last one.

        Raises:
            WriteError: the checkpoint cannot be written. Earlier ones are kept.
            OtherRankError: another rank raised.
        """
        self._gather()
        self._completed = iteration
        with raise_on_all_ranks():
            self._check_folder()
            if comm.is_main_process() and not self._has_final(iteration):
                self._save("model_final")

    def _has_final(self, iteration: int) -> bool:
        path = os.path.join(self.checkpointer.save_dir, "model_final.pth")
        try:
            if read_iteration(path) != iteration:
                return False
        except (OSError, ValueError):
            return False
        self._saved = path
        return True

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
        changed = {}
        trainer = self.checkpointer.checkpointables.get("trainer")
        # Before the first step of a resumed training, Detectron2 counts one iteration more.
        if trainer is not None and trainer.iter != self._completed:
            changed["trainer"] = trainer.state_dict() | {"iteration": self._completed}
        self.checkpointer.save(name, iteration=self._completed, **changed)
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
