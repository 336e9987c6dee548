"""Stop of a training by a signal: all ranks end after the same step, which is saved.

:class:`StopSignals` receives the signals of a process. In a training step they wait, until the
ranks agree in :class:`~d2_seesaw.engine.Trainer` and :class:`StopHook` saves and ends the loop.
Everywhere else they raise :class:`Stopped` at once. Without a :class:`StopSignals`, as in a library
user's own script, signals have their usual effect.
"""

import contextlib
import enum
import logging
import multiprocessing
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from types import CodeType, FrameType
from typing import Any, Protocol, TypeVar

from detectron2.engine import HookBase
from detectron2.utils import comm
from torch.utils.data.dataloader import _BaseDataLoaderIter, _MultiProcessingDataLoaderIter

from d2_seesaw.engine.ranks.watch import is_connection_error
from d2_seesaw.utils.signals import STOP_SIGNALS, unblock_stop_signals

Result = TypeVar("Result")

REACTION_SECONDS = 5.0
"""Time for the main thread to react to a signal where nothing needs to be saved."""
_SAME_INTERRUPT_SECONDS = 0.25  # a terminal and a wrapper of this command may both send it
_POLL_SECONDS = 0.5
_RETRY_SECONDS = 0.05
_BOOTSTRAP = vars(BaseProcess)["_bootstrap"].__code__
_STARTS = (BaseProcess.start.__code__, _MultiProcessingDataLoaderIter.__init__.__code__)
_HEARING_SECONDS = 2.0  # until the parent has seen that another rank has left


class Stopped(SystemExit):
    """End of a run because of a signal; the exit status is 128 + signal.

    It is not an ``Exception``, so that Detectron2 does not log a crash.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number
        self.status = 128 + number


class _Mode(enum.Enum):
    RAISE = enum.auto()  # nothing can be half done: start, evaluation
    WAIT = enum.auto()  # training steps
    IGNORE = enum.auto()  # the run is complete
    LEAVE = enum.auto()  # everything is saved and reported


class StopSignals:
    """Handlers of the stop signals, for the ``with`` block.

    Outside the main thread it does nothing, because Python has handlers only there. A signal that
    is ignored, as SIGHUP under ``nohup``, stays ignored. The previous handlers are restored.

    Python runs handlers between two instructions of the main thread, which may be blocked in a
    collective. A thread therefore sees each signal too. It ends the process at the second
    interrupt, or if the main thread does not react where nothing needs to be saved.

    Args:
        parent: process without which this one must not go on, such as that which started the
            ranks. If it dies, this process stops as at SIGTERM.
        escalates: a second SIGINT ends the process at once. A rank leaves that to the process that
            started it, which sends it the SIGINT that it may have got from the terminal as well.

    Attributes:
        received: the first signal, or None.
        report: shows the message of a stop to the user; only that of one process of a run does.
        outcome: returns the message, given the signal's name and whether steps may be lost.
        before_exit: called before the process is ended at once.
        between_steps: the only rank waits for data, so that it can leave without a further step.
        evaluates: the step before may not be saved yet.
    """

    def __init__(self, *, parent: int | None = None, escalates: bool = True) -> None:
        self.parent = parent
        self.escalates = escalates
        self.received: int | None = None
        self.mode = _Mode.RAISE
        self.report: Callable[[str], None] = write_line
        self.outcome: Callable[[str, bool], str] = lambda name, _: f"{name}: nothing was saved"
        self.between_steps = False
        self.evaluates = False
        self.before_exit: Callable[[], None] = lambda: None
        self._pid = os.getpid()
        self._previous: dict[int, Any] = {}
        self._interrupts: list[float] = []
        self._is_deferred = False
        self._reported = threading.Lock()
        self._told_at = 0.0

    def __enter__(self) -> "StopSignals":
        """Install the handlers, and let signals in that were blocked before."""
        global _active
        if threading.current_thread() is not threading.main_thread():
            return self
        self._outer, _active = _active, self
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._previous[number] = signal.signal(number, self._handle)
        self._thread = threading.Thread(target=self._watch, name="stop signals", daemon=True)
        self._thread.start()
        try:
            unblock_stop_signals()
        except BaseException:  # the handler has raised
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the handlers."""
        global _active
        if _active is not self:
            return
        self._is_deferred = False
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        _active = self._outer
        self._writer.close()  # ends the thread
        self._thread.join()
        self._reader.close()

    def tell(self, *, lost: bool = False) -> None:
        """Report the outcome, once.

        Args:
            lost: steps may have been finished that are not saved.
        """
        if self._reported.acquire(blocking=False):
            self.mode, self._told_at = _Mode.LEAVE, time.monotonic()
            name = signal.Signals(self.received or signal.SIGTERM).name
            if self._lost_parent():
                name = "the process that started this rank is gone"
            self.report(self.outcome(name, lost))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid or (self.received is not None and not self._is_deferred):
            return
        self.received = self.received or number
        # Behind torch's loader the batch counts as read, and the position is that of the next step.
        in_loader = self.between_steps and _is_inside(frame, _BaseDataLoaderIter.__next__.__code__)
        raises = self.mode is _Mode.RAISE or in_loader
        # A fork ignores exceptions of its callbacks, and processes must not start unknown to their
        # parent. The thread repeats the signal.
        self._is_deferred = raises and _is_inside(frame, *_STARTS)
        if raises and not self._is_deferred:
            raise Stopped(self.received)

    def _lost_parent(self) -> bool:
        return self.parent is not None and os.getppid() != self.parent

    def _watch(self) -> None:
        first, received_at = None, None
        while True:
            seconds = _POLL_SECONDS if first is None else _RETRY_SECONDS
            ready, _, _ = select.select([self._reader], [], [], seconds)
            numbers = self._reader.recv(64) if ready else b""
            if ready and not numbers:
                return
            if first is None:
                first = next((number for number in numbers if number in STOP_SIGNALS), None)
                received_at = None if first is None else time.monotonic()
            if signal.SIGINT in numbers and self._is_second_interrupt():
                self._end_at_once(signal.SIGINT)
            # Not SIGINT, which would count as a second one.
            if self._is_deferred or (first is None and self._lost_parent()):
                os.kill(self._pid, signal.SIGTERM)
            since = {_Mode.RAISE: received_at, _Mode.LEAVE: self._told_at}.get(self.mode)
            if since is not None and time.monotonic() > since + REACTION_SECONDS:
                self._end_at_once(self.received or first or signal.SIGTERM)

    def _is_second_interrupt(self) -> bool:
        now = time.monotonic()
        if not self._interrupts or now > self._interrupts[-1] + _SAME_INTERRUPT_SECONDS:
            self._interrupts.append(now)
        return self.escalates and len(self._interrupts) > 1

    def _end_at_once(self, number: int) -> None:
        self.received = self.received or number
        lost = self.mode is not _Mode.RAISE or self.evaluates
        self.before_exit()
        self.tell(lost=lost)
        os._exit(128 + number)


def _is_inside(frame: FrameType | None, *codes: CodeType) -> bool:
    # Below the start of a forked process are the calls of its parent.
    while frame is not None and frame.f_code not in (*codes, _BOOTSTRAP):
        frame = frame.f_back
    return frame is not None and frame.f_code is not _BOOTSTRAP


_active: StopSignals | None = None  # handlers are global to the process, too


def active_signals() -> StopSignals | None:
    """Return the handlers in use; None in a program that has not installed them."""
    return _active


def stop_requested() -> int | None:
    """Return the signal that asks this process to stop, or None."""
    return None if _active is None else _active.received


def end_loading_processes() -> None:
    """End what is left of the loading processes, which a process would wait for at its end."""
    children = [child for child in multiprocessing.active_children() if child.daemon]
    for child in children:
        child.terminate()
    for child in children:
        child.join(1.0)
        if child.exitcode is None:
            child.kill()


def write_line(text: str) -> None:
    """Write a message to stderr and to the log file; the terminal may be gone."""
    with contextlib.suppress(OSError):
        os.write(2, f"d2-seesaw train: {text}\n".encode())
    record = logging.LogRecord("d2_seesaw", logging.INFO, __file__, 0, text, None, None)
    for handler in logging.getLogger("d2_seesaw").handlers:
        stream = getattr(handler, "stream", None)
        if stream is not None and stream not in (sys.stdout, sys.stderr):
            handler.handle(record)


@contextlib.contextmanager
def signals_waiting() -> Iterator[None]:
    """Let signals wait in the block, which asks for them with :func:`stop_requested`.

    After the block a run is complete, and signals have no effect.
    """
    signals = _active
    if signals is None:
        yield
        return
    signals.mode = _Mode.WAIT
    yield
    signals.mode = _Mode.IGNORE


@contextlib.contextmanager
def between_steps() -> Iterator[None]:
    """Let a signal raise :class:`Stopped` while the only rank waits for the data of a step."""
    signals = _active
    if signals is None or comm.get_world_size() > 1:
        yield
        return
    signals.between_steps = True
    try:
        yield
    finally:
        signals.between_steps = False


@contextlib.contextmanager
def failures_of_a_stop() -> Iterator[None]:
    """Turn an error that follows from the end of another process into :class:`Stopped`.

    A signal may end another rank, or a loading process that has just started, a moment before this
    rank reacts to it. If another rank has left, its parent also sends this one the signal.
    """
    try:
        yield
    except (RuntimeError, ConnectionError) as error:
        deadline = time.monotonic() + _HEARING_SECONDS * is_connection_error(error)
        while _active and stop_requested() is None and time.monotonic() < deadline:
            time.sleep(_RETRY_SECONDS)
        number = stop_requested()
        of_loader = isinstance(error, ConnectionError) or "DataLoader worker" in str(error)
        if number is None or not (of_loader or comm.get_world_size() > 1):
            raise
        raise Stopped(number) from error


@contextlib.contextmanager
def _signals_raising() -> Iterator[None]:
    signals = _active
    if signals is None:
        yield
        return
    signals.mode, signals.evaluates = _Mode.RAISE, True
    try:
        if signals.received is not None:  # since the ranks agreed
            raise Stopped(signals.received)
        yield
        comm.synchronize()  # ranks that finish early must not wait where signals wait too
    finally:
        signals.mode, signals.evaluates = _Mode.WAIT, False


class _Saves(Protocol):
    def save_now(self, *, gather: bool = True) -> Any: ...


class StopHook(HookBase):
    """Hook that ends the loop after the step in which the ranks agreed to stop.

    Register it on all ranks, behind the checkpoint hook.

    Args:
        checkpoints: has ``save_now(gather=True)``, which writes the state of the current iteration
            unless that has been written; it is collective unless ``gather`` is False.
    """

    def __init__(self, checkpoints: _Saves) -> None:
        self.checkpoints = checkpoints

    def after_step(self) -> None:
        """Save and leave if the ranks agreed.

        Raises:
            Stopped: they did.
        """
        trainer: Any = self.trainer
        alone = comm.get_world_size() == 1
        if trainer.stop_agreed or (alone and stop_requested() is not None):
            self._leave()

    def after_train(self) -> None:
        """Save if the loop was left while the only rank waited for data."""
        trainer: Any = self.trainer
        if trainer.stop_agreed and comm.is_main_process():
            self.checkpoints.save_now(gather=False)

    def interruptible(self, evaluation: Callable[[], Result]) -> Callable[[], Result]:
        """Return an evaluation that a signal ends at once, on all ranks.

        Rank 0 then saves the state of the last step, unless that has been saved.
        """

        def run() -> Result:
            if any(self._signals_of_ranks()):
                self._leave()
            try:
                with failures_of_a_stop(), _signals_raising():
                    return evaluation()
            except Stopped:
                if comm.is_main_process():
                    self.checkpoints.save_now(gather=False)
                raise

        return run

    def _leave(self) -> None:
        try:
            self.checkpoints.save_now()
        finally:
            # A launcher ends all ranks as soon as one has left, so all wait until it is saved.
            number = next((n for n in self._signals_of_ranks() if n), signal.SIGTERM)
        if _active is not None:
            _active.received = _active.received or number
        raise Stopped(number)

    @staticmethod
    def _signals_of_ranks() -> Sequence[int | None]:
        return comm.all_gather(stop_requested())
