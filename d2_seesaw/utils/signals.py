"""Signals that stop a run, and processes that leave them to their parent."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

STOP_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1")
    if hasattr(signal, name)
)
"""Signals that stop a training: the system has all of them, Windows only the first two."""


@contextlib.contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """Block the stop signals in this thread and in the processes that it starts in the block."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def unblock_stop_signals() -> None:
    """Receive the stop signals again in this thread, those that have waited included."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def leave_signals_to_parent(worker_id: int = 0) -> None:
    """Make a loading process end when its parent ends it, and ignore the signals of others.

    This is a ``worker_init_fn``. A signal to the process group must not end loading processes,
    because the trainer needs them until the end of its step. ``SIGTERM`` from the parent still ends
    the process, because this is how ``multiprocessing`` ends it. On Linux, the process also ends
    with its parent at once, otherwise within PyTorch's 5 seconds.

    Args:
        worker_id: not used.
    """
    import torch.multiprocessing

    end_with_parent: Any = vars(torch.multiprocessing)["_prctl_pr_set_pdeathsig"]
    end_with_parent(signal.SIGKILL)  # has no effect outside Linux
    for number in STOP_SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):  # macOS: PyTorch's own handler remains
        return
    # A blocked signal waits for `sigwaitinfo`, which alone tells the sender.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    threading.Thread(target=_end_when_told_by, args=(os.getppid(),), daemon=True).start()


def _end_when_told_by(parent: int) -> None:
    while True:
        sender = signal.sigwaitinfo([signal.SIGTERM]).si_pid
        if sender == parent:
            os._exit(0)


@contextlib.contextmanager
def ending_at_once(command: str) -> Iterator[None]:
    """End this process at a stop signal with one line and status 128 + signal.

    This is for the seconds in which a command imports its packages. Signals that are ignored, as
    under ``nohup``, stay ignored.
    """

    def end(number: int, frame: object) -> None:
        name = signal.Signals(number).name
        os.write(2, f"{command}: {name}: no step was finished; nothing to save\n".encode())
        os._exit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {
        number: signal.signal(number, end)
        for number in STOP_SIGNALS
        if signal.getsignal(number) not in (signal.SIG_IGN, None)
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
