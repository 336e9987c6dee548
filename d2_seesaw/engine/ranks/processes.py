"""Processes of the ranks of this machine: start, signals and end."""

import argparse
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import time
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

from detectron2.engine.launch import DEFAULT_TIMEOUT, _distributed_worker, _find_free_port
from torch.multiprocessing.spawn import ProcessContext, start_processes

from d2_seesaw.engine.stop import (
    Stopped,
    StopSignals,
    active_signals,
    signals_waiting,
    write_line,
)
from d2_seesaw.utils.signals import STOP_SIGNALS, stop_signals_blocked

START_METHOD = "spawn"
"""Start method of ``multiprocessing``; CUDA cannot be used in a forked process."""
CRASH_SECONDS = 10.0
"""Time for the other ranks to end after one has crashed. Gloo's ranks notice it at once."""
STOP_SECONDS = 30.0
"""Time for the other ranks to end after one has left because of a signal. By then it is saved."""
_POLL_SECONDS = 0.1
_STOP_STATUSES = {128 + number: number for number in STOP_SIGNALS}


def run_ranks(main: Callable[..., Any], args: argparse.Namespace) -> None:
    """Call ``main(args)`` in one process per rank of this machine, until all have ended.

    Signals that this process receives reach the ranks, also those that are still starting.

    Args:
        main: a function at the top level of a module.
        args: Detectron2's flags of processes and machines, and what ``main`` needs.

    Raises:
        Stopped: a signal ended the ranks.
        ProcessRaisedException: a rank raised; the message has its traceback.
        ProcessExitedException: a rank was killed.
    """
    url = args.dist_url
    if url == "auto":
        url = f"tcp://127.0.0.1:{_find_free_port()}"
    reader, writer = multiprocessing.get_context(START_METHOD).Pipe(duplex=False)
    of_detectron2 = (
        main,
        args.num_gpus * args.num_machines,
        args.num_gpus,
        args.machine_rank,
        url,
        (args,),
        DEFAULT_TIMEOUT,
    )
    # The tracker of multiprocessing unblocks signals when it starts, so it is started before.
    with stop_signals_blocked():
        resource_tracker.ensure_running()
    # The ranks inherit this, so that a signal waits until they have handlers.
    with stop_signals_blocked():
        context: Any = start_processes(
            _run_rank,
            (os.getpid(), writer if args.machine_rank == 0 else None, *of_detectron2),
            args.num_gpus,
            join=False,
            start_method=START_METHOD,
        )
    writer.close()
    signals = active_signals()
    if signals is not None:
        signals.before_exit = lambda: _kill(context)
    try:
        with signals_waiting():
            stopped_by = _wait(context, signals)
    finally:
        _kill(context)
        if signals is not None:
            _take_over_message(reader, signals)
    if stopped_by is not None:
        raise Stopped(stopped_by)


def _take_over_message(reader: Connection, signals: StopSignals) -> None:
    """Let this process report what rank 0 told it, after all ranks have ended."""
    with contextlib.suppress(OSError, EOFError), reader:
        if reader.poll():
            text = reader.recv()
            signals.outcome = lambda *_: text


def _run_rank(local_rank: int, parent: int, writer: Connection | None, *of_detectron2: Any) -> None:
    with StopSignals(parent=parent, escalates=False) as signals:

        def report(text: str) -> None:
            if writer is None or local_rank > 0:
                return
            if os.getppid() != parent:  # it is gone
                write_line(text)
            with contextlib.suppress(OSError):
                writer.send(text)

        signals.report = report
        _distributed_worker(local_rank, *of_detectron2)


def _wait(context: ProcessContext, signals: StopSignals | None) -> int | None:
    """Wait for all ranks; return the signal that ended them, or None.

    Raises:
        ProcessRaisedException: a rank raised.
        ProcessExitedException: a rank was killed.
    """
    ended: dict[int, int] = {}  # exit status of each rank that has ended, in this order
    signaled = False
    deadline = None
    while len(ended) < len(context.processes):
        alive = [p for i, p in enumerate(context.processes) if i not in ended]
        multiprocessing.connection.wait([p.sentinel for p in alive], timeout=_POLL_SECONDS)
        for index, process in enumerate(context.processes):
            if index not in ended and process.exitcode is not None:
                ended[index] = process.exitcode
        number = _requested(ended, signals)
        if number is not None and not signaled:
            signaled = True
            for process in alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, number)
        failed = any(ended.values())
        if failed and deadline is None:
            deadline = time.monotonic() + (CRASH_SECONDS if number is None else STOP_SECONDS)
        if deadline is not None and time.monotonic() > deadline:
            _kill(context)
    return _result(context, ended, _requested(ended, signals))


def _requested(ended: dict[int, int], signals: StopSignals | None) -> int | None:
    """Return the signal that this process got, or that which ended a rank."""
    if signals is not None and signals.received is not None:
        return signals.received
    return next((_STOP_STATUSES[s] for s in ended.values() if s in _STOP_STATUSES), None)


def _result(context: ProcessContext, ended: dict[int, int], number: int | None) -> int | None:
    if not any(ended.values()):
        return None
    of_stop = {*_STOP_STATUSES, -signal.SIGKILL}  # it was killed because it did not react
    if number is not None and ended[0] in of_stop | {0}:
        return number
    # PyTorch raises the error of the first rank whose end it sees. If one could not save, or
    # another one is lost because of it, that is the first rank.
    first = next(index for index, status in ended.items() if status)
    first = 0 if number is not None else first
    context.sentinels = {context.processes[first].sentinel: first}
    context.join()
    return None


def _kill(context: ProcessContext) -> None:
    for process in context.processes:
        if process.exitcode is None:
            process.kill()
