"""Processes for tests of locks and failures, forked from a server with preloaded modules."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import tests.support.ranks  # noqa: F401  (preloads torch and Detectron2 in the server)


@contextmanager
def process_of(fn: Callable[..., Any], *args: Any) -> Iterator[tuple[BaseProcess, Connection]]:
    """Run ``fn(connection, *args)`` in a process that is killed at the end of the block.

    ``fn`` must be a top-level function. The other end of its connection is returned.
    """
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe()
    process = context.Process(target=fn, args=(theirs, *args))
    process.start()
    theirs.close()
    try:
        yield process, ours
    finally:
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        ours.close()


def wait_until(condition: Callable[[], Any], seconds: float, what: str = "condition") -> float:
    """Wait for a true value of ``condition()`` and return the seconds that took.

    Raises:
        TimeoutError: it stayed false.
    """
    start = time.monotonic()
    while not condition():
        if time.monotonic() > start + seconds:
            raise TimeoutError(f"{what} not reached within {seconds} s")
        time.sleep(0.02)
    return time.monotonic() - start


def is_running(pid: int) -> bool:
    """Return whether a process exists and has not ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
