"""How far long work has come: a bar in a terminal, plain lines in a log file.

A terminal is one if standard error is. Elsewhere the lines are log messages of this module at level
INFO, one every ten seconds and one at the end; work of less than ten seconds has none. Ranks other
than the first show nothing.
"""

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm

logger = logging.getLogger(__name__)

_SECONDS_BEFORE_A_BAR = 0.5  # what is over sooner needs none
_SECONDS_BETWEEN_LINES = 10.0

Item = TypeVar("Item")


class Progress:
    """The progress of the work inside a ``with`` block.

    Args:
        description: of the work, such as "reading images".
        total: amount of work; None if nobody knows.
        unit: of the amount, in the singular; "B" for bytes.
        shown: False shows nothing.
    """

    def __init__(
        self, description: str, *, total: int | None = None, unit: str = "item", shown: bool = True
    ) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.done = 0
        self._shown = shown and _is_main_process()
        self.is_bar = self._shown and sys.stderr.isatty()
        self._bar = tqdm(
            desc=description,
            total=total,
            unit=unit if unit == "B" else f" {unit}s",
            unit_scale=unit == "B",
            disable=not self.is_bar,
            file=sys.stderr,
            delay=_SECONDS_BEFORE_A_BAR,
        )

    def __enter__(self) -> "Progress":
        self._start = time.monotonic()
        self._next_line = self._start + _SECONDS_BETWEEN_LINES
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()
        seconds = time.monotonic() - self._start
        if self._shown and kind is None and seconds >= _SECONDS_BETWEEN_LINES:
            took = tqdm.format_interval(seconds)
            logger.info("%s: %s in %s", self.description, self._amount(self.done), took)

    def update(self, amount: int = 1) -> None:
        """So much more is done."""
        self.done += amount
        if self.is_bar:
            self._bar.update(amount)
        elif self._shown and time.monotonic() >= self._next_line:
            self._log_line()

    def detail(self, text: str) -> None:
        """Show at the end of the bar, if there is one, what is being worked on."""
        self._bar.set_postfix_str(text)

    def write(self, text: str) -> None:
        """Print a line above the bar, if there is one."""
        if self.is_bar:
            self._bar.write(text, file=sys.stderr)

    def _log_line(self) -> None:
        now = time.monotonic()
        self._next_line = now + _SECONDS_BETWEEN_LINES
        seconds = now - self._start
        done = [self._amount(self.done), f"{tqdm.format_interval(seconds)} so far"]
        if self.total and self.done:
            done[0] += f" of {self._amount(self.total)}"
            left = seconds * max(0, self.total - self.done) / self.done
            done.append(f"{tqdm.format_interval(left)} left")
        logger.info("%s: %s", self.description, ", ".join(done))

    def _amount(self, number: int) -> str:
        if self.unit == "B":
            return tqdm.format_sizeof(number, "B")
        return f"{number:,} {self.unit}{'' if number == 1 else 's'}"


def track(
    items: Iterable[Item],
    description: str,
    *,
    total: int | None = None,
    unit: str = "item",
    shown: bool = True,
) -> Iterator[Item]:
    """The ``items``, with the progress of what is done with them.

    Args:
        items: what is worked on, one after the other.
        description: see :class:`Progress`.
        total: number of the items; by default their length, if they have one.
        unit: what one of them is called.
        shown: False shows nothing.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Progress(description, total=total, unit=unit, shown=shown) as progress:
        for item in items:
            yield item
            progress.update()


def _is_main_process() -> bool:
    from torch import distributed

    in_group = distributed.is_available() and distributed.is_initialized()
    return not in_group or distributed.get_rank() == 0
