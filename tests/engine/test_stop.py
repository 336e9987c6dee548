"""Signals in a training of this process, and on ranks of which one gets the signal."""

import ctypes
import multiprocessing
import os
import signal
import threading
import time

import pytest
import torch
from detectron2.engine import HookBase
from detectron2.engine.hooks import EvalHook
from detectron2.utils import comm
from torch import nn
from torch.utils.data import DataLoader

from d2_seesaw.engine import Trainer
from d2_seesaw.engine import stop as stop_module
from d2_seesaw.engine.stop import (
    StopHook,
    Stopped,
    StopSignals,
    failures_of_a_stop,
    signals_waiting,
    stop_requested,
)
from d2_seesaw.utils.signals import STOP_SIGNALS, ending_at_once, leave_signals_to_parent
from tests.support.ranks import run_on_ranks

STEPS = 5


def kill_self(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


class Model(nn.Module):
    """Model that calls a function in the forward pass of a step."""

    def __init__(self, at):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.at, self.step = at, 0

    def forward(self, batch):
        self.at(f"step {self.step}")
        self.step += 1
        return {"loss": (self.weight * len(batch)).sum()}


class Checkpoints(HookBase):
    """Checkpoint hook that records the iterations that it saves."""

    def __init__(self, at):
        self.at, self.saved, self.completed = at, [], -1

    def after_step(self):
        self.completed = self.trainer.iter
        if self.completed % 3 == 2:
            self.save_now()

    def save_now(self, *, gather=True):
        if self.completed >= 0 and self.completed not in self.saved:
            self.at(f"save {self.completed}")
            self.saved.append(self.completed)


def train(at, loader=None):
    """Train; call ``at`` with the name of each moment. Return saved iterations and the end."""
    model = Model(at)
    loader = loader or [[{}]] * (STEPS + 1)
    trainer = Trainer(model, loader, torch.optim.SGD(model.parameters(), lr=1e-3))
    checkpoints = Checkpoints(at)
    stop = StopHook(checkpoints)

    def evaluate():
        at(f"evaluation {trainer.iter}")
        time.sleep(0.01)
        at(f"end of evaluation {trainer.iter}")
        return {}

    hooks = [checkpoints, stop, EvalHook(2, stop.interruptible(evaluate))]
    trainer.register_hooks(hooks)
    end = None
    with StopSignals() as signals:
        try:
            at("start")
            with failures_of_a_stop(), signals_waiting():
                trainer.train(0, STEPS)
            at("end")
        except Stopped as stopped:
            end = stopped.code
        assert signals.received is None or end is None or end == 128 + signals.received
    return checkpoints.saved, end


@pytest.mark.parametrize(
    ("moment", "saved"),
    [
        ("start", []),
        ("step 0", [0]),
        ("step 3", [2, 3]),
        ("save 2", [2]),
        ("evaluation 1", [1]),
        ("evaluation 3", [2, 3]),
        ("step 4", [2, 4]),  # the last step: the evaluation after the training does not start
        ("evaluation 5", [2, 4]),  # after the training
    ],
)
def test_a_signal_at_any_moment_saves_the_last_finished_step(moment, saved):
    moments = []

    def at(name):
        moments.append(name)
        if name == moment:
            kill_self()

    assert train(at) == (saved, 143)
    assert [m for m in moments if m.startswith("end of evaluation")] == [
        f"end of {m}" for m in moments if m.startswith("evaluation") and m != moment
    ]


def test_a_process_that_an_evaluation_starts_is_known_before_a_signal_ends_it(monkeypatch):
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(0,))
    fork = os.fork

    def fork_at_signal():
        if pid := fork():
            kill_self(signal.SIGINT)
        return pid

    def at(name):
        if name == "evaluation 1":
            with monkeypatch.context() as patch:
                patch.setattr(os, "fork", fork_at_signal)
                process.start()
            time.sleep(4)

    assert train(at) == ([1], 130)
    process.join()
    assert process.exitcode == 0


def test_a_signal_after_the_training_has_no_effect():
    assert train(lambda name: kill_self() if name == "end" else None) == ([2], None)


@pytest.mark.parametrize("number", STOP_SIGNALS, ids=lambda n: n.name)
def test_the_exit_status_is_that_of_the_signal(number):
    previous = signal.signal(number, signal.SIG_DFL)  # nohup ignores SIGHUP
    try:
        saved, status = train(lambda name: kill_self(number) if name == "step 1" else None)
    finally:
        signal.signal(number, previous)
    assert (saved, status) == ([1], 128 + number)


class EndlessThirdImage(torch.utils.data.Dataset):
    def __len__(self):
        return STEPS

    def __getitem__(self, index):
        if index == 2:
            kill_self()
            time.sleep(60)
        return {}


def test_a_single_rank_that_waits_for_data_leaves_with_the_step_before():
    start = time.monotonic()
    loader = DataLoader(EndlessThirdImage(), batch_size=1, collate_fn=list)
    assert train(lambda name: None, loader) == ([1], 143)
    assert time.monotonic() < start + 5


def test_handlers_are_restored_and_ignored_signals_stay_ignored():
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    try:
        with StopSignals():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) != before[0]
        with ending_at_once("x"):
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert [signal.getsignal(number) for number in STOP_SIGNALS] == before
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        signal.signal(signal.SIGHUP, previous)


def test_outside_the_main_thread_there_are_no_handlers():
    def install():
        with StopSignals():
            found.append(signal.getsignal(signal.SIGTERM))

    found = []
    thread = threading.Thread(target=install)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]


def test_a_trainer_without_the_command_gets_no_handlers():
    model = Model(lambda name: found.append(signal.getsignal(signal.SIGTERM)))
    found = []
    trainer = Trainer(model, [[{}]], torch.optim.SGD(model.parameters(), lr=1e-3))
    trainer.train(0, 1)
    assert found == [signal.getsignal(signal.SIGTERM)]
    assert stop_requested() is None


def _child(act):
    """Run ``act`` in a forked process; return its wait status after at most 10 s."""
    pid = os.fork()
    if pid == 0:
        try:
            act()
        finally:
            os._exit(99)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def _interrupt_twice(apart):
    def act():
        with StopSignals() as signals, signals_waiting():
            signals.report = lambda text: None
            kill_self(signal.SIGINT)
            time.sleep(apart)
            kill_self(signal.SIGINT)
            _blocked()

    return act


def _blocked():
    """Block in C, as in a collective. Signals reach the other threads alone."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    ctypes.CDLL(None).usleep(700_000)


@pytest.mark.parametrize(("apart", "status"), [(0.4, 130), (0.0, 99)])
def test_a_second_interrupt_ends_the_process_at_once_unless_it_is_the_same(apart, status):
    assert _child(_interrupt_twice(apart)) == status


@pytest.mark.parametrize("evaluates", [False, True])
def test_a_main_thread_that_is_blocked_is_ended_and_steps_may_be_lost_in_an_evaluation(
    monkeypatch, tmp_path, evaluates
):
    monkeypatch.setattr(stop_module, "REACTION_SECONDS", 0.2)

    def act():
        with StopSignals() as signals:
            signals.outcome = lambda name, lost: f"{name} {lost}"
            signals.report = (tmp_path / "message").write_text
            threading.Timer(0.1, kill_self).start()
            (StopHook(None).interruptible(_blocked) if evaluates else _blocked)()

    assert _child(act) == 143
    assert (tmp_path / "message").read_text() == f"SIGTERM {evaluates}"


def test_a_process_whose_parent_is_gone_stops():
    def act():
        with StopSignals(parent=os.getppid() + 1) as signals:  # as if it had changed
            signals.report = lambda text: None
            try:
                time.sleep(5)
            except Stopped as stopped:
                os._exit(stopped.code)

    assert _child(act) == 143


def test_a_loading_process_ends_by_its_parent_only():
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        leave_signals_to_parent()
        os.write(writer, b"x")
        time.sleep(20)
        os._exit(99)
    os.read(reader, 1)
    other = os.fork()  # a signal of another process
    if other == 0:
        for number in STOP_SIGNALS:
            os.kill(pid, number)
        os._exit(0)
    os.waitpid(other, 0)
    time.sleep(0.1)
    assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    os.kill(pid, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _train_rank(moment, of_rank):
    def at(name):
        if name == moment and comm.get_rank() == of_rank:
            kill_self()

    stop_module.write_line = lambda text: None
    return train(at)


@pytest.mark.dist
@pytest.mark.parametrize(
    ("moment", "saved"), [("step 3", [2, 3]), ("save 2", [2, 3]), ("step 4", [2, 4])]
)
def test_ranks_stop_after_the_same_step_if_one_of_them_gets_a_signal(moment, saved):
    ended = run_on_ranks(_train_rank, moment, 1, world_size=2)
    assert ended == [(saved, 143)] * 2


def _evaluate_rank():
    def at(name):
        if name == "evaluation 3" and comm.get_rank() == 1:
            kill_self()
        if name == "evaluation 3":
            threading.Timer(0.5, kill_self).start()  # as the parent does
            comm.synchronize()

    stop_module.write_line = lambda text: None
    return train(at)


@pytest.mark.dist
def test_the_first_rank_saves_if_another_one_has_left_its_evaluation_before():
    assert run_on_ranks(_evaluate_rank, world_size=2) == [([2, 3], 143), ([2], 143)]
