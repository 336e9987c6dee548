"""Progress of this rank: step and phase, for the thread that reports them."""

from enum import IntEnum


class Phase(IntEnum):
    """Phase of a run, in the order within a step."""

    START = 0
    LOADING = 1
    FORWARD = 2
    BACKWARD = 3
    UPDATE = 4
    BETWEEN = 5
    INFERENCE = 6
    SCORING = 7

    @property
    def label(self) -> str:
        """The phase as text for messages."""
        return _LABELS[self]

    @property
    def takes_long(self) -> bool:
        """Whether one rank may work for many minutes in it while the others wait."""
        return self in (Phase.START, Phase.BETWEEN, Phase.SCORING)

    @property
    def waits_for_others(self) -> bool:
        """Whether a rank may have to wait for the others in it."""
        return self not in (Phase.LOADING, Phase.INFERENCE)


_LABELS = {
    Phase.START: "start",
    Phase.LOADING: "loading data",
    Phase.FORWARD: "forward pass",
    Phase.BACKWARD: "backward pass",
    Phase.UPDATE: "update",
    Phase.BETWEEN: "saving and logging",
    Phase.INFERENCE: "inference on the test data",
    Phase.SCORING: "scoring",
}

# The first steps compile, choose algorithms and fill caches.
FIRST_STEPS = 3


class Progress:
    """Step and phase, written by the training and read by another thread.

    ``state`` is replaced as a whole, so a reader never sees half of a change.

    Attributes:
        state: number of changes so far, step, batch within the step, phase, and whether the step is
            among the first ones of this process.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Return to the start of a run."""
        self.state: tuple[int, int, int, Phase, bool] = (0, 0, 0, Phase.START, True)
        self._first_step: int | None = None
        self._images = 0

    def enter(self, phase: Phase, step: int | None = None) -> None:
        """Record the start of a phase.

        Args:
            phase: the phase.
            step: iteration of the training; None is the one before.
        """
        changes, last_step, batch, _, is_early = self.state
        if step is None:
            step = last_step
        if phase is Phase.LOADING:
            if self._first_step is None:
                self._first_step = step
            batch = batch + 1 if step == last_step else 1
            is_early = step < self._first_step + FIRST_STEPS
        elif phase is Phase.INFERENCE:
            self._images, is_early = 0, True
        self.state = (changes + 1, step, batch, phase, is_early)

    def advance(self) -> None:
        """Record one image of an inference."""
        changes, step, batch, phase, _ = self.state
        self._images += 1
        self.state = (changes + 1, step, batch, phase, self._images < FIRST_STEPS)


PROGRESS = Progress()
