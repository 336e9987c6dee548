"""Dead and frozen ranks end all of them, in real processes with a training of a few numbers."""

import logging
import os
import re
import signal
import socket
import sys
import threading
import time
from contextlib import ExitStack, suppress

import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm

from d2_seesaw.engine.ranks import EXIT_STATUS, PROGRESS, Phase, watch, watch_ranks
from d2_seesaw.engine.ranks.links import Link, connect, listen, own_addresses
from d2_seesaw.utils.ranks import OtherRankError
from tests.support.processes import is_running, process_of, wait_until

pytestmark = pytest.mark.dist


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


TIMEOUT = 1.5
FAULT_STEP = 4  # after the first steps, which may take long


def _block():
    """Wait in a system call that no Python handler ends, as a read from a lost server does."""
    reader, _ = os.pipe()
    while True:
        os.read(reader, 1)


def _hold_python():
    """Run C code that keeps Python's lock, so that no other thread of this process runs."""
    re.match(r"(a|aa)+$", "a" * 60 + "b")


def _raise():
    raise ValueError("of this rank alone")


FAULTS = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda: os._exit(3),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "block": _block,
    "hold": _hold_python,
    "raise": _raise,
    "work": lambda: time.sleep(3 * TIMEOUT),
}


def _decide_and_rest(self, *args, decide=watch.RankWatch._decide, **kwargs):
    decide(self, *args, **kwargs)
    time.sleep(1)  # meanwhile, the main thread has the error of its collective


def _train(connection, rank, folder, fault, hangs, is_slow):
    """Train 8 steps on one of two ranks; ``fault`` is its name, the rank and the phase."""
    if is_slow and rank != fault[1]:
        watch.RankWatch._decide = _decide_and_rest
    torch.set_num_threads(1)
    watch.GRACE = 0.5
    log = (folder / f"log{rank}.txt").open("w")
    logging.getLogger("d2_seesaw").addHandler(logging.StreamHandler(log))
    sys.stderr = (folder / f"stderr{rank}.txt").open("w")
    method = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=method, rank=rank, world_size=2)
    comm.create_local_process_group(2)
    status = 0
    try:
        with watch_ranks(TIMEOUT, str(folder)):
            connection.send(os.getpid())
            for step in range(8):
                _step(step, fault, rank, hangs)
                (folder / f"step{rank}.txt").write_text(f"{step}")
    except OtherRankError as error:
        sys.stderr.write(f"{error}\n")
        status = 1
    except ValueError:
        status = 2
    sys.stderr.flush()
    os._exit(status)


def _step(step, fault, rank, hangs):
    kind, culprit, where = fault
    for phase in list(Phase)[1:]:
        PROGRESS.enter(phase, step if phase is Phase.LOADING else None)
        if (step, rank, phase) == (FAULT_STEP, culprit, where):
            time.sleep(0.2)  # so that the phase is reported
            FAULTS[kind]()
        if phase is Phase.BACKWARD:
            if hangs and step == FAULT_STEP:
                _block()  # as NCCL does
            dist.all_reduce(torch.ones(1))


def run(folder, kind, culprit, phase, *, hangs=False, is_slow=False):
    """Return the ranks' statuses, the seconds to the end of the other rank, and its messages."""
    (folder / "last_checkpoint").write_text("model_0000003.pth")
    other, fault = 1 - culprit, (kind, culprit, phase)
    with ExitStack() as stack:
        started = [
            stack.enter_context(process_of(_train, rank, folder, fault, hangs, is_slow))
            for rank in range(2)
        ]
        for _, connection in started:
            connection.recv()
        last = folder / f"step{culprit}.txt"
        before = str(FAULT_STEP - 1)
        wait_until(lambda: last.exists() and last.read_text() >= before, 60)
        seconds = wait_until(lambda: not started[other][0].is_alive(), 60)
        with suppress(TimeoutError):
            wait_until(lambda: not started[culprit][0].is_alive(), 1)
    messages = (folder / f"log{other}.txt").read_text() + (
        folder / f"stderr{other}.txt"
    ).read_text()
    return [process.exitcode for process, _ in started], seconds, messages


def line_about(culprit, messages):
    lines = set(messages.splitlines())
    about = {line.removeprefix("d2-seesaw train: ") for line in lines if f"rank {culprit} " in line}
    assert len(about) == 1, messages
    (line,) = about
    assert line.startswith(f"rank {culprit} on {socket.gethostname()} (process ")
    assert line.endswith("the last checkpoint is model_0000003.pth: continue with --resume")
    return line


@pytest.mark.parametrize(
    ("kind", "culprit", "said", "status"),
    [
        ("kill", 1, "died in step 4 (forward pass)", -signal.SIGKILL),
        ("kill", 0, "died in step 4 (forward pass)", -signal.SIGKILL),
        ("exit", 1, "died in step 4 (forward pass)", 3),
        ("raise", 1, "failed in step 4 (forward pass): ValueError: of this rank alone", 2),
    ],
)
def test_a_rank_that_ends_is_named_in_place_of_the_error_of_the_collective(
    tmp_path, kind, culprit, said, status
):
    statuses, seconds, messages = run(tmp_path, kind, culprit, Phase.FORWARD)
    assert said in line_about(culprit, messages)
    assert statuses[culprit] == status
    assert statuses[1 - culprit] == 1
    assert seconds < 5


@pytest.mark.parametrize("culprit", [0, 1])
def test_a_rank_that_ends_also_ends_one_whose_collective_hangs(tmp_path, culprit):
    statuses, seconds, messages = run(tmp_path, "kill", culprit, Phase.FORWARD, hangs=True)
    assert "died in step 4 (forward pass)" in line_about(culprit, messages)
    assert statuses[1 - culprit] == EXIT_STATUS
    assert seconds < 5


@pytest.mark.parametrize(
    ("kind", "culprit", "phase", "said"),
    [
        slow("stop", 1, Phase.FORWARD, "for 2 s in step 4 (forward pass)"),
        ("block", 0, Phase.FORWARD, "for 2 s in step 4 (forward pass)"),
        slow("stop", 0, Phase.LOADING, "for 2 s in step 4 (loading data)"),
        slow("stop", 1, Phase.SCORING, "has not answered for 2 s in step 4 (scoring)"),
        slow("block", 1, Phase.LOADING, "for 2 s in step 4 (loading data)"),
        slow("hold", 1, Phase.LOADING, "for 2 s in step 4 (loading data)"),
    ],
)
def test_a_frozen_rank_is_named_and_all_end(tmp_path, kind, culprit, phase, said):
    statuses, seconds, messages = run(tmp_path, kind, culprit, phase)
    line = line_about(culprit, messages)
    assert said in line
    assert f"(train.rank_timeout={TIMEOUT:g})" in line
    assert statuses[1 - culprit] == EXIT_STATUS
    # A stopped process is woken. One that keeps Python's lock is left to the launcher.
    assert statuses[culprit] == (-signal.SIGKILL if kind == "hold" else EXIT_STATUS)
    assert TIMEOUT < seconds < TIMEOUT + 5


def test_a_frozen_rank_ends_one_alike_whose_collective_fails_first(tmp_path):
    statuses, _, messages = run(tmp_path, "block", 0, Phase.FORWARD, is_slow=True)
    assert "made no progress" in line_about(0, messages)
    assert statuses == [EXIT_STATUS, EXIT_STATUS]


@pytest.mark.slow
@pytest.mark.parametrize("phase", [Phase.BETWEEN, Phase.SCORING])
def test_a_rank_that_saves_or_scores_for_long_ends_nobody(tmp_path, phase):
    statuses, seconds, messages = run(tmp_path, "work", 0, phase)
    assert statuses == [0, 0]
    assert seconds > 2 * TIMEOUT
    assert "rank" not in messages


def _listen_and_fork(connection, port):
    link = connect(["127.0.0.1"], port)
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    connection.send(child)
    os.kill(os.getpid(), signal.SIGKILL)
    link.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_the_worker_of_a_dead_rank_does_not_keep_its_connection_open():
    with listen(only_this_machine=True) as listener:
        listener.setblocking(True)
        with process_of(_listen_and_fork, listener.getsockname()[1]) as (_, connection):
            link = Link(listener.accept()[0])
            child = connection.recv()
            try:
                wait_until(lambda: link.receive() == [] and not link.is_open, 5)
                assert is_running(child)
            finally:
                os.kill(child, signal.SIGKILL)


def test_a_link_carries_messages_whole_and_survives_what_is_none():
    with listen(only_this_machine=False) as listener:
        listener.setblocking(True)
        ours = connect(own_addresses("localhost"), listener.getsockname()[1])
        theirs = Link(listener.accept()[0])
        ours.socket.send(b'nothing\n[1]\n\xff\n{"state":')
        wait_until(lambda: theirs.receive() == [] and theirs._unfinished, 5)
        ours.socket.send(b" 1}\n")
        received = []
        wait_until(lambda: received.extend(theirs.receive()) or received, 5)
        assert received == [{"state": 1}]
        ours.close()
        wait_until(lambda: theirs.receive() == [] and not theirs.is_open, 5)
        theirs.send(state=2)  # is dropped


def test_no_address_that_answers_is_an_error_that_names_them():
    with listen(only_this_machine=True) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(OSError, match=rf"no connection to port {port} of 127.0.0.1 \("):
        connect(["127.0.0.1"], port)


def test_one_process_is_not_watched():
    threads = threading.active_count()
    with watch_ranks(1.0):
        assert threading.active_count() == threads
