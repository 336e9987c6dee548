"""Watch of the ranks by a thread of each rank.

Each rank has a connection to rank 0 and reports its step and phase. Rank 0 judges: a connection
that ends means a dead process, a rank without progress or without messages is frozen. One line then
names the rank, its host, step and phase, and all ranks end. The other ranks judge rank 0. The main
thread of a rank that waits in a collective runs no Python code, so its thread ends the process.
"""

import logging
import os
import re
import secrets
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch.distributed as dist
from detectron2.utils import comm
from torch.distributed.distributed_c10d import PrefixStore, _get_default_store

from d2_seesaw.engine.ranks.judge import Rank, silent_rank, stuck_ranks
from d2_seesaw.engine.ranks.links import Link, connect, listen, own_addresses, this_machine
from d2_seesaw.engine.ranks.progress import PROGRESS, Phase
from d2_seesaw.utils.ranks import OtherRankError

logger = logging.getLogger(__name__)

EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h: the run can be continued
# Seconds in which the main thread of a rank may end by itself after another one has died, because
# its own error says more.
GRACE = 5.0
SAVING = 60.0  # seconds for a checkpoint that is being written
_CONNECTING = 60.0  # seconds
_HEARING = 2.0  # seconds until the verdict follows an error of a collective
_FLUSHING = 5.0  # seconds for the last lines, on a disk that may be gone


class RankWatch(threading.Thread):
    """Thread that reports the progress of this rank and ends it when another one fails.

    Args:
        ranks: all ranks in order.
        own: number of this rank.
        timeout: seconds without progress after which a rank is frozen.
        output_dir: folder with the checkpoints of a training, empty if nothing is saved.
        listener: on rank 0, the socket that the others connect to.
        link: on the others, the connection to rank 0.
        token: secret of this run, which a connection has to give.
    """

    def __init__(
        self,
        ranks: list[Rank],
        own: int,
        timeout: float,
        output_dir: str,
        *,
        token: str,
        listener: socket.socket | None = None,
        link: Link | None = None,
    ) -> None:
        super().__init__(name="rank watch", daemon=True)
        self.verdict = ""
        self._ranks, self._own, self._timeout = ranks, own, timeout
        self._output_dir, self._token, self._listener = output_dir, token.encode(), listener
        self._is_said = False
        self._links: dict[int, Link] = {}
        self._interval = min(1.0, timeout / 20)
        self._ends_at, self._grace, self._blamed = 0.0, 0.0, [own]
        self._decided = threading.Event()
        self._last_resort = threading.Timer(0.0, os._exit, [EXIT_STATUS])
        self._waking, self._wakes = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._waking, selectors.EVENT_READ)
        if listener is not None:
            self._selector.register(listener, selectors.EVENT_READ)
        self._started_at = self._ticked_at = time.monotonic()
        ranks[own].is_watched = True
        if link is not None:
            link.send(token=token, rank=own)
            self._watch(0, link)
        for rank in ranks:
            rank.forget_time(self._started_at)

    def run(self) -> None:
        """Report, listen and judge until the training has ended."""
        reports_at = 0.0
        while self._waking not in (events := self._wait()):
            now = time.monotonic()
            for source in events:
                self._read(source, now)
            if now - self._ticked_at > self._interval + GRACE:  # this process was stopped
                for rank in self._ranks:
                    rank.forget_time(now)
            self._ticked_at = now
            self._ranks[self._own].report(PROGRESS.state, now)
            if now >= reports_at:
                self._send(state=PROGRESS.state)
                reports_at = now + self._interval
            if now > self._started_at + _CONNECTING:
                self._stop_listening()
            self._judge(now)

    def close(self, failure: BaseException | None = None) -> None:
        """Stop watching, and tell the others that this rank has ended or failed."""
        self._wakes.send(b"x")
        self.join()
        self._last_resort.cancel()
        if isinstance(failure, Exception):
            text = " ".join(str(failure).split())[:300]
            self._send(state=PROGRESS.state)
            self._send(failed=f"{type(failure).__name__}: {text}")
        else:
            self._send(left=True)
        self._stop_listening()
        for link in self._links.values():
            link.close()
        self._selector.close()
        self._waking.close()
        self._wakes.close()

    def wait_for_verdict(self, seconds: float) -> str:
        """Return the line about another rank, empty if none failed within ``seconds``."""
        self._decided.wait(seconds)
        return self.verdict

    def _wait(self) -> list[Any]:
        return [key.fileobj for key, _ in self._selector.select(self._interval)]

    def _send(self, **message: Any) -> None:
        for link in self._links.values():
            link.send(**message)

    def _watch(self, number: int, link: Link) -> None:
        self._links[number] = link
        self._ranks[number].is_watched = True
        self._ranks[number].forget_time(time.monotonic())
        with suppress(KeyError):
            self._selector.unregister(link.socket)
        self._selector.register(link.socket, selectors.EVENT_READ, number)

    def _stop_listening(self) -> None:
        if self._listener is None:
            return
        self._selector.unregister(self._listener)
        self._listener.close()
        self._listener = None
        missing = [str(r.number) for r in self._ranks if r.number not in (*self._links, self._own)]
        if missing and not self._decided.is_set() and self.is_alive():
            logger.warning("Ranks %s are not watched: no connection", ", ".join(missing))

    # ------------------------------------------------------------------ messages

    def _read(self, source: Any, now: float) -> None:
        if source.fileno() < 0:  # closed, because all ranks have connected
            return
        if source is self._listener:
            self._accept(source)
            return
        number = self._selector.get_key(source).data
        if isinstance(number, Link):  # has not said yet which rank it is
            self._greet(number)
            return
        link, rank = self._links[number], self._ranks[number]
        for message in link.receive():
            self._take(rank, message, now)
        if not link.is_open:
            self._selector.unregister(source)
            del self._links[number]
            if rank.is_watched and not self.verdict:
                self._decide(f"{rank} died in {self._place(rank)}", [number], grace=GRACE)
                self._say()
            rank.is_watched = False

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            link = Link(listener.accept()[0])
            self._selector.register(link.socket, selectors.EVENT_READ, link)

    def _greet(self, link: Link) -> None:
        """Take the first message, with which a rank shows that it belongs to this run."""
        messages = link.receive()
        hello = messages[0] if messages else {}
        number = hello.get("rank")
        token = str(hello.get("token")).encode()
        known = isinstance(number, int) and 0 < number < len(self._ranks)
        if isinstance(number, int) and known and secrets.compare_digest(token, self._token):
            self._watch(number, link)
            for message in messages[1:]:
                self._take(self._ranks[number], message, time.monotonic())
            if len(self._links) == len(self._ranks) - 1:
                self._stop_listening()
        elif messages or not link.is_open:
            self._selector.unregister(link.socket)
            link.close()

    def _take(self, rank: Rank, message: dict[str, Any], now: float) -> None:
        if "state" in message:
            rank.report(message["state"], now)
        elif "left" in message:
            rank.is_watched = False
        elif self.verdict:
            return
        elif "failed" in message:
            rank.is_watched = False
            text = f"{rank} failed in {rank.where}: {message['failed']}"
            self._decide(text, [rank.number], grace=GRACE)
        elif "verdict" in message:
            self._decide(message["verdict"], message["blamed"], grace=message["grace"])

    # ------------------------------------------------------------------ decisions

    def _judge(self, now: float) -> None:
        if self.verdict:
            saves = self._own == 0 and PROGRESS.state[3] is Phase.BETWEEN
            if now > self._ends_at + SAVING * saves:
                self._end()
            return
        others = [rank for rank in self._ranks if rank.number != self._own]
        # Rank 0 is the first to decide; the others then hear from it.
        patience = self._timeout * (1 if self._own == 0 else 1.1)
        if (silent := silent_rank(others, patience, now)) is not None:
            frozen = [silent]
            text = f"has not answered for {now - silent.heard_at:.0f} s in {self._place(silent)}"
        elif self._own == 0 and (frozen := stuck_ranks(self._ranks, self._timeout, now)):
            waited = now - max(rank.advanced_at for rank in frozen)
            text = f"made no progress for {waited:.0f} s in {frozen[0].where}"
        else:
            return
        names = " and ".join(map(str, frozen))
        verdict = f"{names} {text} (train.rank_timeout={self._timeout:g})"
        self._decide(verdict, [rank.number for rank in frozen])
        for rank in frozen:
            if rank.machine and rank.machine == self._ranks[self._own].machine:
                with suppress(OSError):  # a stopped process has to hear that the run has ended
                    os.kill(rank.pid, signal.SIGCONT)

    def _place(self, rank: Rank) -> str:
        """Return step and phase of a rank as text, whose last report may be a second old.

        Ranks exchange gradients in each step. So a rank is in the step of this one, or not yet done
        with what follows the step before, which takes long enough to have been reported.
        """
        step = PROGRESS.state[1]
        is_between = rank.state[3] >= Phase.BETWEEN and rank.state[1] == step - 1
        return rank.where if is_between or rank.state[1] >= step else f"step {step}"

    def _decide(self, verdict: str, blamed: list[int], grace: float = 0.0) -> None:
        """Fix the reason to end and tell the others; the main thread has ``grace`` seconds."""
        self._ends_at, self._grace, self._blamed = time.monotonic() + grace, grace, blamed
        self._last_resort = threading.Timer(grace + SAVING + _FLUSHING, os._exit, [EXIT_STATUS])
        self._last_resort.daemon = True
        self._last_resort.start()
        self.verdict = verdict
        self._send(verdict=verdict, blamed=blamed, grace=grace)
        self._decided.set()

    def leave_end_to_thread(self) -> None:
        """Wait for the end of this process if a rank has frozen; otherwise return at once.

        The collective of this rank fails when the frozen rank is ended. Its error would end this
        process too, with another status than the thread's.
        """
        if self.verdict and not self._grace:
            self.join(SAVING + _FLUSHING)

    def message(self) -> str:
        """Return the line about the rank that failed, with what is saved."""
        line = f"{self.verdict}; all ranks end"
        return f"{line}; {last_checkpoint(self._output_dir)}" if self._output_dir else line

    def _say(self) -> None:
        """Write the line to the log, and once per machine to stderr."""
        if self._is_said:
            return
        self._is_said = True
        line = self.message()
        logger.error(line)
        if self._own == 0:
            return  # the log of rank 0 is shown
        node = self._ranks[self._own].node
        alive = [r.number for r in self._ranks if r.node == node and r.number not in self._blamed]
        if self._own == min(alive, default=self._own):
            sys.stderr.write(f"d2-seesaw train: {line}\n")
            sys.stderr.flush()

    def _end(self) -> None:
        """Write the line and end the process, whatever its main thread is waiting for."""
        timer = threading.Timer(_FLUSHING, os._exit, [EXIT_STATUS])
        timer.daemon = True
        timer.start()
        self._say()
        logging.shutdown()
        os._exit(EXIT_STATUS)


@contextmanager
def watch_ranks(timeout: float | None, output_dir: str = "") -> Iterator[None]:
    """End all ranks when one dies or freezes during the ``with`` block.

    Every rank must enter the block. The ranks report :data:`PROGRESS`. A process that is ended has
    the exit status :data:`EXIT_STATUS`.

    Args:
        timeout: seconds without progress; the first steps, saving and scoring may take six times as
            long. None does not watch, nor is a single rank watched.
        output_dir: folder with the checkpoints of a training, empty if nothing is saved.

    Raises:
        OtherRankError: the connection to another rank broke, with the step and the phase of that
            rank in place of the error of the collective.
    """
    PROGRESS.reset()
    if timeout is None or comm.get_world_size() == 1:
        yield
        return
    watch = _start(timeout, output_dir)

    def is_news(record: logging.LogRecord) -> bool:
        """Return False for the traceback of a collective that another rank has broken."""
        error = record.exc_info and record.exc_info[1]
        return not (is_connection_error(error) and watch.wait_for_verdict(_HEARING))

    of_loop = logging.getLogger("detectron2.engine.train_loop")
    of_loop.addFilter(is_news)
    try:
        yield
    except BaseException as error:
        if is_connection_error(error) and watch.wait_for_verdict(_HEARING):
            watch.leave_end_to_thread()
            watch.close()
            raise OtherRankError(watch.message()) from error
        watch.close(error)
        raise
    else:
        watch.close()
    finally:
        of_loop.removeFilter(is_news)


def is_connection_error(error: object) -> bool:
    """Return whether a collective failed because another rank could not be reached."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and bool(re.search(r"gloo|NCCL", str(error)))


def _start(timeout: float, output_dir: str) -> RankWatch:
    own, node = comm.get_rank(), comm.get_rank() // comm.get_local_size()
    info: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid(), "node": node}
    info["machine"] = this_machine()
    listener, offer = None, dict[str, Any]()
    if own == 0:
        is_single = comm.get_local_size() == comm.get_world_size()
        listener = listen(only_this_machine=is_single)
        offer["addresses"] = ["127.0.0.1"] if is_single else own_addresses(_store_host())
        offer["port"], offer["token"] = listener.getsockname()[1], secrets.token_hex(16)
    gathered: list[Any] = comm.all_gather((info, offer))
    offer = gathered[0][1]
    link = None
    if own > 0:
        try:
            link = connect(offer["addresses"], offer["port"])
        except OSError as error:
            logger.warning("Rank %d is not watched: %s", own, error)
    ranks = [Rank(number, **said) for number, (said, _) in enumerate(gathered)]
    watch = RankWatch(
        ranks, own, timeout, output_dir, token=offer["token"], listener=listener, link=link
    )
    watch.start()
    return watch


def _store_host() -> str:
    """Return the address at which all ranks have met."""
    store = _get_default_store()
    while isinstance(store, PrefixStore):
        store = store.underlying_store
    return getattr(store, "host", "") or socket.gethostname()


def last_checkpoint(output_dir: str) -> str:
    """Return what is saved and how to continue, as part of a message."""
    try:
        name = (Path(output_dir) / "last_checkpoint").read_text().strip()
    except OSError:
        name = ""
    return f"the last checkpoint is {name}: continue with --resume" if name else "nothing was saved"
