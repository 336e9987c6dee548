"""Decision which rank has frozen, from what each rank last reported."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from d2_seesaw.engine.ranks.progress import Phase

# Factor of the time that the first steps, saving and scoring may take.
LONG = 6


@dataclass
class Rank:
    """Rank of the run with its last report, and when it arrived.

    Attributes:
        number: global number of the rank.
        host: name of its machine.
        pid: number of its process.
        node: number of its machine within the run.
        machine: identifies the machine and its processes; empty if it is unknown.
        state: see :class:`~d2_seesaw.engine.ranks.progress.Progress`.
        advanced_at: time of the last change of ``state``, on the clock of the process that judges.
        heard_at: time of the last message.
        is_watched: whether it has connected and has not left.
    """

    number: int
    host: str
    pid: int
    node: int = 0
    machine: str = ""
    state: tuple[int, int, int, Phase, bool] = (0, 0, 0, Phase.START, True)
    advanced_at: float = 0.0
    heard_at: float = 0.0
    is_watched: bool = False

    def __str__(self) -> str:
        """Return number, host and process."""
        return f"rank {self.number} on {self.host} (process {self.pid})"

    @property
    def where(self) -> str:
        """Step and phase as text."""
        _, step, _, phase, _ = self.state
        return phase.label if phase is Phase.START else f"step {step} ({phase.label})"

    @property
    def position(self) -> tuple[int, int, int]:
        """Step, batch and phase: smaller for a rank that is behind."""
        _, step, batch, phase, _ = self.state
        return step, batch, phase

    def report(self, state: Any, now: float) -> None:
        """Take a report that has arrived."""
        changes, step, batch, phase, is_early = state
        self.heard_at = now
        if changes != self.state[0]:
            self.state = (changes, step, batch, Phase(phase), is_early)
            self.advanced_at = now

    def forget_time(self, now: float) -> None:
        """Count from now on, because the process that judges was stopped itself."""
        self.advanced_at = self.heard_at = now

    def allowed(self, timeout: float) -> float:
        """Return the seconds that the present phase may take."""
        *_, phase, is_early = self.state
        return timeout * (LONG if phase.takes_long or is_early else 1)

    def is_stuck(self, timeout: float, now: float) -> bool:
        """Return whether the present phase has taken longer than it may."""
        return now - self.advanced_at > self.allowed(timeout)


def silent_rank(ranks: Iterable[Rank], timeout: float, now: float) -> Rank | None:
    """Return the first rank that has sent nothing for ``timeout`` seconds.

    The reports come from a thread of their own, so such a process is stopped, holds Python's lock
    in a call that does not end, or cannot be reached.
    """
    silent = (r for r in ranks if r.is_watched and now - r.heard_at > timeout)
    return next(silent, None)


def stuck_ranks(ranks: Iterable[Rank], timeout: float, now: float) -> list[Rank]:
    """Return the ranks that all others wait for, if they have made no progress for too long.

    The others wait in a collective, so only the ranks that are behind can be the cause. While one
    of these may take long, such as rank 0 that scores, its limit holds.
    """
    watched = [rank for rank in ranks if rank.is_watched]
    if not watched:
        return []
    last = min(rank.position for rank in watched)
    behind = [rank for rank in watched if rank.position == last]
    stuck = [rank for rank in behind if rank.is_stuck(timeout, now)]
    return stuck if len(stuck) == len(behind) or not Phase(last[2]).waits_for_others else []
