"""Signals to real trainings: nothing is lost, nothing is left, and the exit status tells why."""

import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.support.markdown import ROOT
from tests.support.trainings import SMALL, Training, generate_small_data

pytestmark = pytest.mark.slow

EVALUATES = ["train.eval_period=4", "train.checkpointer.period=3"]
BEGINS = {
    "step": " loss_cls",
    "evaluation": "Start inference",
    "saving": "Saving checkpoint to",
}


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    return generate_small_data(tmp_path_factory.mktemp("datasets"))


@pytest.fixture
def start(datasets, tmp_path):
    started = []

    def run(*arguments, **options):
        started.append(Training(datasets, tmp_path / "run", *arguments, **options))
        return started[-1]

    yield run
    for training in started:
        training.end()


def check_saved(training, number):
    """Check exit status, checkpoint, message, and that no process is left."""
    status = training.status()
    left = training.seconds_until_none_is_left()
    lines = [x for x in training.text.splitlines() if x.startswith("d2-seesaw train:")]
    context = training.text[-3000:]
    assert status == 128 + number, context
    assert left is not None, training.processes()
    assert training.saved_iteration() == training.finished_iteration(), context
    assert len(lines) == 1, context
    if training.saved_iteration() < 0:
        assert lines[0].endswith("no step was finished; nothing to save")
    else:
        step = training.saved_iteration() + 1
        assert f", step {step} of 2000. Continue with: d2-seesaw train --resume" in lines[0]
        assert lines[0].startswith(f"d2-seesaw train: {signal.Signals(number).name}: everything")
    assert "Traceback" not in training.text, context
    return lines[0]


# Each case has its own moment: the part of the training, and the time after it has begun.
CASES = [
    (case, random.Random(case).choice(list(BEGINS)), 1 + case % 2, (0, 2, 4)[case // 2 % 3])
    for case in range(30)
]


@pytest.mark.parametrize(("case", "part", "num_ranks", "workers"), CASES)
def test_sigterm_at_a_random_moment_loses_nothing(start, case, part, num_ranks, workers):
    generator = random.Random(1000 + case)
    training = start(*EVALUATES, num_ranks=num_ranks, workers=workers)
    training.wait_for(lambda: training.finished_iteration() >= generator.randrange(3))
    if part == "step":
        before = training.finished_iteration()
        training.wait_for(lambda: training.finished_iteration() > before)
    else:
        training.wait_for_text(BEGINS[part])
    time.sleep(generator.random() * (0.05 if part == "saving" else 0.3))
    send = os.killpg if case % 3 == 0 else os.kill  # to all processes, or to the command
    send(training.pid, signal.SIGTERM)
    check_saved(training, signal.SIGTERM)


@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGINT])
def test_the_other_signals_save_too(start, number, num_ranks):
    training = start(num_ranks=num_ranks, workers=2)
    training.wait_for(lambda: training.finished_iteration() >= 1)
    os.killpg(training.pid, number)  # as a terminal sends Ctrl-C
    check_saved(training, number)


@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize("seconds", [0.05, 0.3, 0.6])
def test_before_the_first_step_nothing_is_saved(start, num_ranks, seconds):
    training = start(num_ranks=num_ranks)
    training.wait_for(lambda: training.log.exists())
    time.sleep(seconds)
    os.kill(training.pid, signal.SIGTERM)
    assert training.status() == 143
    assert training.seconds_until_none_is_left() is not None
    assert training.saved_iteration() == training.finished_iteration()


def test_the_command_in_the_message_continues(start, tmp_path):
    training = start()
    training.wait_for(lambda: training.finished_iteration() >= 2)
    os.kill(training.pid, signal.SIGTERM)
    command = shlex.split(check_saved(training, signal.SIGTERM).partition("with: ")[2])
    assert command[:2] == ["d2-seesaw", "train"]
    finished = training.finished_iteration()
    again = start(*command[2:])
    again.wait_for(lambda: again.finished_iteration() > finished)
    os.kill(again.pid, signal.SIGTERM)
    check_saved(again, signal.SIGTERM)
    steps = [m["iteration"] for m in again.metrics if "total_loss" in m]
    assert steps == list(range(len(steps)))


@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize("to_all", [False, True])
def test_a_second_interrupt_ends_everything_within_a_second(start, num_ranks, to_all):
    training = start(
        "train.checkpointer.period=1", "train.accumulate_steps=200", num_ranks=num_ranks, workers=2
    )
    training.wait_for(lambda: "Starting training" in training.text)
    time.sleep(0.5)
    send = os.killpg if to_all else os.kill
    send(training.pid, signal.SIGINT)
    time.sleep(0.5)
    assert training.process.exitcode is None
    send(training.pid, signal.SIGINT)
    assert training.status(1.0) == 130
    assert training.seconds_until_none_is_left(1.0) is not None
    assert training.text.splitlines()[-1] == "d2-seesaw train: SIGINT: nothing was saved"


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_save_and_end_if_their_parent_is_killed(start, workers):
    training = start(num_ranks=2, workers=workers)
    training.wait_for(lambda: training.finished_iteration() >= 1)
    os.kill(training.pid, signal.SIGKILL)
    assert training.seconds_until_none_is_left() is not None
    assert training.saved_iteration() == training.finished_iteration() >= 1
    assert "the process that started this rank is gone: everything up to" in training.text


def test_loading_processes_end_with_a_killed_rank(start):
    training = start(workers=4)
    training.wait_for(lambda: training.finished_iteration() >= 1)
    os.kill(training.pid, signal.SIGKILL)
    assert training.seconds_until_none_is_left() is not None


def test_a_signal_to_one_rank_stops_all(start):
    training = start(*EVALUATES, num_ranks=2)
    training.wait_for(lambda: training.finished_iteration() >= 1)
    ranks = [p for p in training.processes() if p != training.pid]
    os.kill(ranks[-1], signal.SIGUSR1)
    check_saved(training, signal.SIGUSR1)


def test_an_evaluation_saves_nothing_and_says_so(start, tmp_path):
    training = start("train.checkpointer.period=2")
    training.wait_for(lambda: (tmp_path / "run/model_0000001.pth").exists())
    os.kill(training.pid, signal.SIGTERM)
    check_saved(training, signal.SIGTERM)
    weights = f"train.init_checkpoint={tmp_path}/run/model_0000001.pth"
    again = start("--eval-only", weights, f"train.output_dir={tmp_path}/evaluation")
    again.wait_for(lambda: "Start inference" in again.text)
    os.kill(again.pid, signal.SIGTERM)
    assert again.status() == 143
    line = again.text.splitlines()[-1]
    assert line == "d2-seesaw train: SIGTERM: the evaluation was not finished; it saves nothing"


def test_spawned_ranks_get_a_signal_that_came_before_their_handlers(start):
    training = start(num_ranks=2, spawns=True)
    training.wait_for(lambda: len(training.processes()) >= 3)
    time.sleep(0.3)
    os.kill(training.pid, signal.SIGTERM)
    assert training.status() == 143
    assert re.search(r"SIGTERM: (no step was finished; nothing to|nothing was) save", training.text)
    assert training.seconds_until_none_is_left() is not None


def _torchrun(datasets, folder):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--standalone", "-m", "d2_seesaw", "train", "--config-file"]
    command += ["quickstart/seesaw", *SMALL, f"train.output_dir={folder}/run"]
    variables = {"DETECTRON2_DATASETS": str(datasets), "OMP_NUM_THREADS": "1"}
    with open(folder / "log.txt", "w") as log:
        return subprocess.Popen(
            command, cwd=ROOT, env=os.environ | variables, stdout=log, stderr=log
        )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_under_torchrun_all_ranks_save_once_and_end(datasets, tmp_path, number):
    torchrun = _torchrun(datasets, tmp_path)
    metrics, log = tmp_path / "run/metrics.json", tmp_path / "log.txt"
    try:
        deadline = time.monotonic() + 120
        while not (metrics.exists() and "total_loss" in metrics.read_text()):
            assert torchrun.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        ranks = [
            int(p)
            for p in Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text().split()
        ]
    finally:
        torchrun.send_signal(number)
    assert torchrun.wait(30) != 0
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{rank}").exists() for rank in ranks):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    saved = torch.load(
        tmp_path / "run" / (tmp_path / "run/last_checkpoint").read_text(), weights_only=True
    )
    steps = [json.loads(x)["iteration"] for x in metrics.read_text().splitlines()]
    assert saved["trainer"]["iteration"] == max(steps)
    lines = [x for x in log.read_text().splitlines() if "d2-seesaw train: " in x]
    assert len(lines) == 1, lines
    if number != signal.SIGKILL:
        assert "Continue with: torchrun" in lines[0] or "-m torch.distributed.run" in lines[0]
        assert "-m d2_seesaw train --resume --config-file quickstart/seesaw" in lines[0]
