"""Small real trainings in processes of their own, for tests that send them signals."""

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2_seesaw.synthetic.instances import LongTailSpec, generate_longtail_dataset
from d2_seesaw.synthetic.profile import DEMO_PROFILE
from tests.support import ranks  # noqa: F401  (modules that are imported once)

SMALL = [
    "dataloader.train.total_batch_size=2",
    "dataloader.evaluator.report=null",
    "model.roi_heads.batch_size_per_image=8",
    "model.proposal_generator.batch_size_per_image=16",
    "model.proposal_generator.pre_nms_topk=[40,20]",
    "model.proposal_generator.post_nms_topk=[20,10]",
    "train.log_period=1",
    "train.max_iter=2000",
]


def generate_small_data(folder):
    """Write a dataset of 40 + 6 images of 64 x 64 pixels; return the folder of datasets."""
    profile = replace(DEMO_PROFILE, full_scale_images=1000)
    sizes = {"num_train_images": 40, "num_val_images": 6, "min_val_images": 1}
    spec = LongTailSpec(num_categories=20, image_size=(64, 64), profile=profile, **sizes)
    generate_longtail_dataset(folder / "quickstart", spec, progress=False)
    return folder


def _run(datasets, log, arguments, spawns):
    """Run the command as a session of its own."""
    os.setsid()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ["DETECTRON2_DATASETS"] = str(datasets)
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # as without a fork server
    from d2_seesaw.cli import main
    from d2_seesaw.data.quickstart import register_quickstart
    from d2_seesaw.engine.ranks import processes as rank_processes

    for name in [n for n in DatasetCatalog.list() if "quickstart_" in n]:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    register_quickstart()
    if not spawns:
        rank_processes.START_METHOD = "fork"  # imports nothing again
    sys.argv = ["d2-seesaw", "train", *arguments]
    sys.exit(main(sys.argv[1:]))


class Training:
    """A training in a process that is forked with all modules.

    Attributes:
        output: output folder.
        pid: the process of the command, whose session has all processes of the training.
    """

    def __init__(self, datasets, output, *arguments, num_ranks=1, workers=0, spawns=False):
        self.output = Path(output)
        self.log = self.output.with_suffix(".txt")
        flags = [a for a in arguments if a.startswith("--")]
        options = [a for a in arguments if not a.startswith("--")]
        every = [
            *("--config-file", "quickstart/seesaw", "--num-gpus", str(num_ranks), *flags),
            *(*SMALL, f"train.output_dir={output}", f"dataloader.train.num_workers={workers}"),
            *(f"dataloader.test.num_workers={min(workers, 2)}", *options),
        ]
        if "--config-file" in arguments:  # the whole command
            every = list(arguments)
        self.process = multiprocessing.get_context("forkserver").Process(
            target=_run, args=(datasets, self.log, every, spawns), daemon=False
        )
        self.process.start()
        self.pid = self.process.pid

    @property
    def text(self):
        """What the command has printed."""
        return self.log.read_text() if self.log.exists() else ""

    @property
    def metrics(self):
        """Lines of ``metrics.json``."""
        path = self.output / "metrics.json"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def wait_for(self, condition, seconds=120):
        """Wait until ``condition()`` is true, while the training runs."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.exitcode is None, self.text[-4000:]
            assert time.monotonic() < deadline, self.text[-4000:]
            time.sleep(0.002)

    def wait_for_text(self, text):
        """Wait until the command prints ``text`` once more."""
        before = self.text.count(text)
        self.wait_for(lambda: self.text.count(text) > before)

    def status(self, seconds=60):
        """Wait for the end; return the exit status of the command."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, self.text[-4000:]
        return self.process.exitcode

    def processes(self):
        """Return the processes of the training that are left, zombies aside."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                state, _, _, session = path.read_text().rpartition(") ")[2].split()[:4]
                if int(session) == self.pid and state != "Z":
                    found.append(int(path.parent.name))
        return found

    def seconds_until_none_is_left(self, seconds=10.0):
        """Wait until no process is left; return the time, or None after the given one."""
        start = time.monotonic()
        while self.processes():
            if time.monotonic() > start + seconds:
                return None
            time.sleep(0.02)
        return time.monotonic() - start

    def end(self):
        """Kill what is left."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.join()

    def saved_iteration(self):
        """Return the iteration of the last checkpoint, -1 without one."""
        last = self.output / "last_checkpoint"
        if not last.exists():
            return -1
        path = self.output / last.read_text()
        return torch.load(path, weights_only=True, mmap=True)["trainer"]["iteration"]

    def finished_iteration(self):
        """Return the last iteration whose losses were written, -1 without one."""
        return max((m["iteration"] for m in self.metrics if "total_loss" in m), default=-1)
