"""Dead and frozen ranks, two machines and a second writer, in trainings as a user starts them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import torch

from d2_seesaw.engine.ranks import EXIT_STATUS
from d2_seesaw.utils.folder_lock import LOCK_NAME
from tests.support.processes import is_running, wait_until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TIMEOUT = 6
TRAIN = [
    *("train_net.py", "--config-file", "configs/quickstart/seesaw.py"),
    "dataloader.test.num_workers=0",
    "dataloader.train.total_batch_size=4",
    "dataloader.evaluator.report=null",
    "train.log_period=1",
    "train.seed=3",
    "train.checkpointer.period=3",
    "lr_multiplier.warmup_iters=4",
    f"train.rank_timeout={TIMEOUT}",
]
SPAWNED = (["-u"], ["--num-gpus=2"])
TORCHRUN = (["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"], [])
both_launchers = pytest.mark.parametrize("launcher", [SPAWNED, TORCHRUN], ids=["spawn", "torchrun"])


class Run:
    """Training in processes of its own, which are found by a variable of their environment."""

    def __init__(self, output, datasets, launcher, *options, name="run"):
        self.output, self.mark = output, f"{output}:{name}"
        variables = {"DETECTRON2_DATASETS": str(datasets), "OMP_NUM_THREADS": "1"}
        variables |= {"PYTHONPATH": str(ROOT), "D2_SEESAW_TEST_RUN": self.mark}
        python, flags = launcher
        flags = [*flags, *(option for option in options if option.startswith("--"))]
        options = [option for option in options if not option.startswith("--")]
        # Workers of a spawned rank are spawned, too, which takes half a minute on a busy machine.
        workers = f"dataloader.train.num_workers={0 if '--num-gpus=2' in flags else 2}"
        self.log = output.parent / f"{name}.txt"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    *python,
                    *TRAIN[:3],
                    *flags,
                    *TRAIN[3:],
                    workers,
                    f"train.output_dir={output}",
                    *options,
                ],
                cwd=ROOT,
                env=os.environ | variables,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def processes(self):
        """Return the numbers of the processes of this run."""
        wanted = f"D2_SEESAW_TEST_RUN={self.mark}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
            except OSError:
                continue
        return [pid for pid in found if is_running(pid)]

    def ranks(self):
        """Return the process numbers of both ranks: each has a log file open."""
        return [self._rank_with(name) for name in ("log.txt", "log.txt.rank1")]

    def _rank_with(self, name):
        path = str(self.output / name)
        users = {pid for pid in self.processes() if path in open_files(pid)}
        (rank,) = [pid for pid in users if parent(pid) not in users]  # not a worker of the loader
        return rank

    def steps(self):
        """Return the iterations in metrics.json."""
        path = self.output / "metrics.json"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line)["iteration"] for line in lines if "total_loss" in line]

    def reaches(self, step, seconds=120):
        """Wait until a step is logged."""
        wait_until(lambda: step in self.steps() or self.process.poll() is not None, seconds)
        assert self.process.poll() is None, self.text()

    def ends(self, seconds=120):
        """Wait for the end of the launcher; return the seconds that took."""
        return wait_until(lambda: self.process.poll() is not None, seconds, self.log.name)

    def text(self):
        """Return the output."""
        return self.log.read_text(errors="replace")

    def kill(self):
        """Kill all processes."""
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        self.process.wait()


def open_files(pid):
    found = set()
    with suppress(OSError):  # the process has ended
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):  # the file has been closed in the meantime
                found.add(os.readlink(link))
    return found


def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@contextmanager
def running(*args, **options):
    run = Run(*args, **options)
    try:
        yield run
    finally:
        run.kill()


@both_launchers
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_all_within_ten_seconds(tmp_path, datasets, launcher, victim, record):
    with running(tmp_path / "run", datasets, launcher, "train.max_iter=1000") as run:
        run.reaches(6)
        ranks = run.ranks()
        start = time.monotonic()
        os.kill(ranks[victim], signal.SIGKILL)
        run.ends()
        wait_until(lambda: not any(map(is_running, ranks)), 20)
        seconds = time.monotonic() - start
        assert seconds < 10
        assert run.process.returncode != 0
        assert f"rank {victim} " in run.text()
        assert "died" in run.text()
        assert "continue with --resume" in run.text()
        wait_until(lambda: not run.processes(), 30)  # workers of the loader
        record(f"rank {victim} killed", seconds)


@both_launchers
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("where", ["training", "evaluation"])
def test_a_stopped_rank_is_named_and_ends_all(tmp_path, datasets, launcher, victim, where, record):
    evaluates = ["train.eval_period=5"] if where == "evaluation" else []
    with running(tmp_path / "run", datasets, launcher, "train.max_iter=1000", *evaluates) as run:
        if evaluates:
            wait_until(lambda: "Start inference on" in run.text(), 120)
        else:
            run.reaches(6)
        ranks = run.ranks()
        stopped = ranks[victim]
        start = time.monotonic()
        os.kill(stopped, signal.SIGSTOP)
        run.ends()
        wait_until(lambda: not any(map(is_running, ranks)), 40)
        seconds = time.monotonic() - start
        assert seconds < 1.1 * TIMEOUT + 10
        spawned = launcher is SPAWNED  # the status of torchrun is 1
        assert run.process.returncode == (EXIT_STATUS if spawned else 1)
        line = rf"rank {victim} on {re.escape(socket.gethostname())} \(process {stopped}\) "
        assert re.search(line + r"(made no progress|has not answered) for \d+ s in", run.text())
        record(f"rank {victim} stopped in {where}", seconds)


@pytest.fixture
def record(request):
    """Return a function that prints a measured time, for docs/reliability.md (pytest -s)."""
    return lambda what, seconds: sys.stdout.write(
        f"{request.node.callspec.id}: {what}, ended after {seconds:.1f} s\n"
    )


def contents(folder):
    return {p.name: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.iterdir()}


def test_a_second_run_is_refused_and_an_evaluation_disturbs_nothing(tmp_path, datasets):
    output = tmp_path / "run"
    alone = (["-u"], [])
    options = ["train.max_iter=1000", "train.log_period=1000"]
    with running(output, datasets, alone, *options) as run:
        model = output / "model_0000002.pth"
        wait_until(model.exists, 120)
        os.kill(run.process.pid, signal.SIGSTOP)  # so that every change is of the other run
        before = contents(output)
        link = tmp_path / "link"
        link.symlink_to(output)
        for number, launcher in enumerate([alone, SPAWNED, TORCHRUN]):
            with running(link, datasets, launcher, *options, name=f"second{number}") as second:
                second.ends()
                assert second.process.returncode == 1
                (line,) = [x for x in second.text().splitlines() if "is in use by" in x]
                assert line.startswith(f"d2-seesaw train: train.output_dir '{link}'")
                assert f"process {run.process.pid} on {socket.gethostname()}, started " in line
        assert contents(output) == before
        evaluation = (["-u"], ["--eval-only", f"train.init_checkpoint={model}"])
        with running(output, datasets, evaluation, name="evaluation") as evaluating:
            evaluating.ends()
            assert evaluating.process.returncode == 0, evaluating.text()
        after = contents(output)
        assert {name: after[name] for name in before} == before
        assert after.keys() - before.keys() == {
            "log_eval.txt",
            "config_eval.yaml",
            "model_0000002.thresholds.json",
            "inference_eval",
        }
        os.kill(run.process.pid, signal.SIGKILL)
        run.process.wait()
        with running(
            output, datasets, (["-u"], ["--resume"]), "train.max_iter=4", name="next"
        ) as n:
            n.ends()
            assert n.process.returncode == 0, n.text()


def node(number, port):
    """Return the launcher of one of two machines, which have addresses of the loopback device."""
    return (
        [
            *("-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={number}"),
            *("--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={port}"),
            f"--local-addr=127.0.0.{number + 1}",
        ],
        [],
    )


@contextmanager
def two_nodes(output, datasets, *options, name=""):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                running(output, datasets, node(n, port), *options, name=f"{name}node{n}")
            )
            for n in range(2)
        ]


@pytest.mark.parametrize("dead", [0, 1])
def test_two_machines_end_when_one_dies_and_resume(tmp_path, datasets, dead):
    output = tmp_path / "run"
    schedule = ["train.max_iter=12", "lr_multiplier.max_iter=100"]
    with two_nodes(output, datasets, "train.max_iter=1000") as nodes:
        nodes[0].reaches(6)
        start = time.monotonic()
        nodes[dead].kill()
        other = nodes[1 - dead]
        assert (output / LOCK_NAME).read_text()
        wait_until(lambda: f"rank {dead} on " in other.text(), 10)
        other.ends(60)
        assert time.monotonic() - start < 45
        assert other.process.returncode == 1
        assert re.search(rf"rank {dead} on \S+ \(process \d+\) died in step \d", other.text())
        wait_until(lambda: not other.processes(), 30)
    with two_nodes(output, datasets, "--resume", *schedule, name="resumed") as nodes:
        for run in nodes:
            run.ends(180)
            assert run.process.returncode == 0, run.text()
    resumed = torch.load(output / "model_final.pth", weights_only=True)
    assert resumed["iteration"] == 11


def test_two_machines_that_resume_equal_two_that_never_stopped(tmp_path, datasets):
    length = "train.max_iter=20"  # the learning rate depends on it
    models = []
    for name in ("straight", "stopped"):
        output = tmp_path / name / "run"
        output.parent.mkdir()
        if name == "stopped":
            with two_nodes(output, datasets, length) as nodes:
                nodes[0].reaches(6)
                nodes[1].kill()
                nodes[0].ends(60)
        with two_nodes(output, datasets, "--resume", length, name="last") as nodes:
            for run in nodes:
                run.ends(180)
                assert run.process.returncode == 0, run.text()
        models.append(torch.load(output / "model_final.pth", weights_only=True)["model"])
    straight, resumed = models
    assert straight.keys() == resumed.keys()
    assert [name for name in straight if not torch.equal(straight[name], resumed[name])] == []
