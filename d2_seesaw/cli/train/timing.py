"""Clocks of a dry run: steps on batches of the training data, and images of an evaluation."""

from collections.abc import Callable, Iterator
from typing import Any

from detectron2.engine import HookBase
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from d2_seesaw.data.loader import TrainLoader

WARM_UP, LEAST, MOST = 2, 3, 40
"""Steps that are not timed, and the least and largest number of those that are."""
SECONDS = 4.0
"""Time for which steps are timed."""
_IMAGES_OF_WARM_UP = 2


class DryRunBatches:
    """Training data of a dry run: the largest batch first, then the stream of the loader.

    The stream is opened once, so that loading processes are started once.
    """

    def __init__(self, loader: TrainLoader, first: list[dict[str, Any]], repeats: int) -> None:
        self.loader = loader
        self.bad_images = loader.bad_images
        self._first = [first] * repeats
        self._stream: Iterator[Any] | None = None

    def __iter__(self) -> "DryRunBatches":
        """Continue the stream."""
        return self

    def __next__(self) -> list[dict[str, Any]]:
        """Return the next batch."""
        if self._stream is None:
            self._stream = iter(self.loader)  # the processes start while the largest batch trains
        return self._first.pop() if self._first else next(self._stream)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the loader."""
        return self.loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> list[str]:
        """Load a state of the loader."""
        return self.loader.load_state_dict(state)


class StepTimer(HookBase):
    """Hook that times steps, and ends training when enough of them have been timed.

    Args:
        clock: returns seconds.
        most: largest number of steps, the untimed ones included.

    Attributes:
        steps: times of the steps, without the first ones if there are more.
    """

    def __init__(self, clock: Callable[[], float], most: int) -> None:
        self.clock = clock
        self.most = most
        self._times: list[float] = []

    def before_step(self) -> None:
        """Start the clock."""
        self._start = self.clock()

    def after_step(self) -> None:
        """Keep the time of the step; all ranks end with the first one."""
        self._times.append(self.clock() - self._start)
        timed = len(self._times) - WARM_UP
        enough = timed >= LEAST and (sum(self._times[WARM_UP:]) >= SECONDS or timed >= MOST)
        trainer: Any = self.trainer
        if comm.all_gather(enough)[0] or trainer.iter + 1 >= self.most:
            trainer.end_after(trainer.iter)

    @property
    def steps(self) -> list[float]:
        """Times of the steps that count."""
        return self._times[WARM_UP:] or self._times[-1:]


class EvaluationTimer:
    """Clock of an evaluation, which watches the methods of its evaluator.

    Args:
        evaluator: is changed.
        clock: returns seconds.
    """

    def __init__(self, evaluator: DatasetEvaluator, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._batches: list[list[tuple[float, int]]] = []  # of each evaluation: end, images
        reset, process = evaluator.reset, evaluator.process

        def timed_reset() -> None:
            self._batches.append([])
            reset()

        def timed_process(inputs: Any, outputs: Any) -> None:
            process(inputs, outputs)
            self._batches[-1].append((clock(), len(inputs)))

        vars(evaluator).update(reset=timed_reset, process=timed_process)

    def result(self, total: float, timed: int) -> tuple[float, float]:
        """Return the time for an image, of all models together, and the rest of the time.

        Args:
            total: seconds of all evaluations.
            timed: number of batches of images that count, from the first one.
        """
        of_image, of_batches = 0.0, 0.0
        for batches in self._batches:
            if len(batches) < 2:
                continue
            of_batches += batches[-1][0] - batches[0][0]
            first = min(_IMAGES_OF_WARM_UP, len(batches) - 1, timed - 1) - 1
            first, last = max(first, 0), max(min(timed, len(batches)) - 1, 1)
            images = sum(number for _, number in batches[first + 1 : last + 1])
            of_image += (batches[last][0] - batches[first][0]) / images
        return of_image, total - of_batches
