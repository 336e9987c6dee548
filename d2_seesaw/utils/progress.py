"""Progress of long-running work: a bar in a terminal, log messages elsewhere.

The bar is shown if standard error is a terminal. Otherwise this module logs a message at level INFO
every ten seconds and one at the end; work of less than ten seconds logs nothing. Ranks other than
the first show nothing.
"""

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm

logger = logging.getLogger(__name__)

_SECONDS_BEFORE_A_BAR = 0.5  # no bar for shorter work
_SECONDS_BETWEEN_LINES = 10.0

Item = TypeVar("Item")


class Progress:
    """Progress display of the work inside a ``with`` block.

    Args:
        description: description of the work, such as "reading images".
        total: amount of work; None if unknown.
        unit: unit of the amount, in the singular; "B" for bytes.
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
        """Add ``amount`` to the finished work."""
        self.done += amount
        if self.is_bar:
            self._bar.update(amount)
        elif self._shown and time.monotonic() >= self._next_line:
            self._log_line()

    def detail(self, text: str) -> None:
        """Show a text, such as the current item, at the end of the bar, if there is one."""
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
    """Yield ``items`` and show the progress of the loop over them.

    Args:
        items: items to yield.
        description: see :class:`Progress`.
        total: number of items; by default their length, if they have one.
        unit: name of one item.
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
