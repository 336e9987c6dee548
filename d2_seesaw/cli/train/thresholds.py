"""Score thresholds of the last evaluation, written beside the checkpoints that it belongs to."""

from __future__ import annotations

import logging
import os
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from d2_seesaw.engine import BestCheckpoint
from d2_seesaw.evaluation.analysis.threshold_file import (
    drop_stale_thresholds,
    write_thresholds_if_possible,
)

logger = logging.getLogger("d2_seesaw")


def write_thresholds_of(
    evaluator: Any, checkpoint: str, *, tta: bool = False, sha256: str | None = None
) -> None:
    """Write the thresholds of an evaluator beside a checkpoint, on the main process.

    Evaluators without thresholds are ignored. A folder that cannot be written is a line in the log.

    Args:
        evaluator: The evaluator.
        checkpoint: Path of the checkpoint.
        tta: Whether they are for test-time augmentation.
        sha256: Hash of the checkpoint, if it is known already.
    """
    thresholds = getattr(evaluator, "thresholds", None)
    if thresholds is not None and comm.is_main_process():
        write_thresholds_if_possible(checkpoint, thresholds, tta=tta, sha256=sha256)


class ThresholdsHook(HookBase):
    """Hook that writes the thresholds beside ``model_final.pth`` and ``model_best.pth``.

    Register it after the hooks that evaluate and keep the best checkpoint. A resumed training may
    take its evaluation from a record, without thresholds: a file of another checkpoint is then
    removed, and the log says how to write the right one.

    Args:
        evaluator: Evaluator of the trained weights.
        best: Hook of the best checkpoint, if there is one.
        output_dir: Folder of the checkpoints.
    """

    def __init__(self, evaluator: Any, best: BestCheckpoint | None, output_dir: str) -> None:
        self.evaluator = evaluator
        # The averaged weights have an evaluation of their own, whose thresholds are not kept.
        self.best = None if best is None or best.metric.startswith("ema/") else best
        self.output_dir = output_dir
        self._seen: dict[str, Any] | None = None

    def before_train(self) -> None:
        """Remember the best checkpoint, which a recorded evaluation may have changed."""
        self._seen = self.best and self.best.best
        if self._seen is not None and self._seen["iteration"] == self.trainer.start_iter - 1:
            self._write("model_best.pth")

    def after_step(self) -> None:
        """Write the thresholds of a checkpoint that has just become the best."""
        if self.best is not None and self.best.best != self._seen:
            self._seen = self.best.best
            self._write("model_best.pth")

    def after_train(self) -> None:
        """Write the thresholds after the evaluation of the last step."""
        self.after_step()
        if self.trainer.iter >= self.trainer.max_iter:  # otherwise training failed
            self._write("model_final.pth")

    def _write(self, name: str) -> None:
        path = os.path.join(self.output_dir, name)
        if "://" in path:
            write_thresholds_of(self.evaluator, path)
        elif os.path.isfile(path):
            if getattr(self.evaluator, "thresholds", None) is not None:
                write_thresholds_of(self.evaluator, path)
            elif hasattr(self.evaluator, "thresholds") and comm.is_main_process():
                drop_stale_thresholds(path)
