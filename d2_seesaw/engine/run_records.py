"""Records of a run that continue without a gap or a repetition when training is resumed."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detectron2.engine.hooks import EvalHook
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, JSONWriter

from d2_seesaw.utils.files import write_text
from d2_seesaw.utils.random_state import EVALUATION, seed_generators

logger = logging.getLogger(__name__)

WINDOW = 20
"""Iterations over which Detectron2's writers and the trackers smooth losses."""


def storage_state(storage: EventStorage) -> dict[str, Any]:
    """Return the scalars that writers still need, as plain values.

    Returns:
        By name, ``values``, pairs of value and iteration of the last ``WINDOW`` iterations, and
        ``smoothing``, whether writers smooth them.
    """
    hints = storage.smoothing_hints()
    return {
        name: {
            "values": history.values()[-storage.count_samples(name, WINDOW) :],
            "smoothing": hints[name],
        }
        for name, history in storage.histories().items()
        if name in hints
    }


def restore_storage(storage: EventStorage, state: dict[str, Any]) -> None:
    """Put the scalars of :func:`storage_state` into a new storage."""
    for name, scalar in state.items():
        for value, iteration in scalar["values"]:
            hint = scalar["smoothing"]
            storage.put_scalar(name, value, smoothing_hint=hint, cur_iter=iteration)


class ResumedMetricsFile(JSONWriter):
    """Detectron2's writer of ``metrics.json`` for a resumed training.

    What was written after the checkpoint is removed, because it is trained again, as is a line that
    was cut off.

    Args:
        path: the file.
        first: first iteration that is written again.

    Attributes:
        last_written: last iteration in the file, -1 if there is none.
    """

    def __init__(self, path: str | os.PathLike[str], first: int) -> None:
        kept = [line for line in _json_lines(path, "iteration") if line["iteration"] < first]
        self.last_written = max((line["iteration"] for line in kept), default=-1)
        if os.path.exists(path):
            write_text(path, "".join(f"{json.dumps(line, sort_keys=True)}\n" for line in kept))
        super().__init__(os.fspath(path))
        self._last_write = self.last_written


def _json_lines(path: str | os.PathLike[str], key: str) -> list[dict[str, Any]]:
    """Return the objects with a whole number as ``key`` in a file of JSON lines."""
    if not os.path.exists(path):
        return []
    found = []
    for line in Path(path).read_text(errors="replace").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            logger.warning("%s: a line that is cut off is left out: %.40s", path, line)
    return [line for line in found if isinstance(line, dict) and type(line.get(key)) is int]


class EvaluationHook(EvalHook):
    """Detectron2's evaluation hook, which a resumed training neither skips nor repeats.

    The results are recorded in ``evaluations.jsonl``, one line per evaluation with the number of
    ``steps`` trained, ``results`` and whether it was the ``last`` one. A training that is resumed
    from the checkpoint of the same step takes them from there. Without a record, as after an
    interruption, it evaluates first. Random numbers of an evaluation do not affect the training.

    Args:
        period: steps between evaluations; 0 evaluates only after the last step.
        function: returns a nested dictionary of metrics on the first rank.
        output_dir: folder of the file.
        test: identifies test data and evaluator. Records of another test are not used.
    """

    file_name = "evaluations.jsonl"

    def __init__(
        self,
        period: int,
        function: Callable[[], dict[str, Any] | None],
        output_dir: str,
        test: str = "",
    ) -> None:
        super().__init__(period, self._results)
        self._test = test
        self._evaluate = function
        self._path = Path(output_dir) / self.file_name
        self._recorded: dict[str, Any] | None = None  # of the step from which training starts
        self._latest: tuple[int, dict[str, float]] | None = None  # steps and results

    def before_train(self) -> None:
        """Read the record of the checkpoint's step, and remove later ones."""
        start = self.trainer.start_iter
        records: list[dict[str, Any]] = []
        if comm.is_main_process():
            records = [r for r in _json_lines(self._path, "steps") if 0 < r["steps"] <= start]
            if self._path.exists():
                self._write(records)
        of_start = [r for r in records if r["steps"] == start and r.get("test") == self._test]
        # All ranks must agree on whether to evaluate.
        self._recorded = comm.all_gather(of_start[-1] if of_start else None)[0]

    def before_step(self) -> None:
        """Keep the last metrics of a training that is extended."""
        recorded, self._recorded = self._recorded, None
        if recorded is not None and recorded["last"] and comm.is_main_process():
            self.trainer.storage.put_scalars(**recorded["results"], smoothing_hint=False)

    def after_train(self) -> None:
        """Evaluate after the last step, unless training failed."""
        self._eval_after_train = self.trainer.iter >= self.trainer.max_iter
        super().after_train()

    def _results(self) -> dict[str, float]:
        trainer: Any = self.trainer
        is_last = trainer.iter >= trainer.max_iter
        steps = trainer.iter if is_last else trainer.iter + 1
        if is_last and self._latest is not None and self._latest[0] == steps:
            return self._latest_as_last()  # training has ended early
        results = self._results_after(steps, is_last=is_last)
        self._latest = steps, results
        return results

    def _latest_as_last(self) -> dict[str, float]:
        """Return the results of the latest evaluation, and mark its record as the last one."""
        if comm.is_main_process() and (records := _json_lines(self._path, "steps")):
            self._write([*records[:-1], records[-1] | {"last": True}])
        return self._latest[1] if self._latest else {}

    def _results_after(self, steps: int, *, is_last: bool) -> dict[str, float]:
        if self._recorded is not None:
            recorded, self._recorded = self._recorded, None
            logger.info("The evaluation after step %d is complete; its record is used", steps)
            return recorded["results"] if comm.is_main_process() else {}
        trainer: Any = self.trainer
        seed_generators(trainer.seed, EVALUATION, comm.get_rank(), steps)
        found = flatten_results_dict(self._evaluate() or {})
        results = {name: float(value) for name, value in found.items()}
        if comm.is_main_process():
            record = {"steps": steps, "last": is_last, "test": self._test, "results": results}
            self._write([*_json_lines(self._path, "steps"), record])
        return results

    def _write(self, records: list[dict[str, Any]]) -> None:
        write_text(self._path, "".join(f"{json.dumps(record)}\n" for record in records))
