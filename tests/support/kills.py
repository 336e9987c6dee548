"""Processes that are killed at random moments, forked from a server with preloaded modules.

python -m tests.support.kills      prints the figures of docs/reliability.md
"""

import itertools
import json
import multiprocessing
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock
from uuid import uuid4

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2_seesaw.checkpoint import checkpointer as writing
from d2_seesaw.checkpoint import choose_checkpoint
from d2_seesaw.checkpoint.contents import check_checksums
from d2_seesaw.checkpoint.resuming import read_iteration
from d2_seesaw.engine import CheckpointHook
from d2_seesaw.utils import files
from tests.support import ranks  # noqa: F401  (preloads the modules)
from tests.support.tiny_training import build, train

PERIOD = 2
SEED = 20261127
CHUNK, PAUSE = 1024, 0.0005


@dataclass
class Figures:
    """Counts of what killed processes left behind."""

    kills: int = 0
    resumable: int = 0
    writing: Counter[str] = field(default_factory=Counter)
    most_lost: int = 0
    damaged: list[str] = field(default_factory=list)
    finished: int = 0

    def inspect(self, folder, completed, resumed):
        """Count one kill after ``completed`` steps; ``resumed`` is the first step afterwards."""
        self.kills += 1
        names = os.listdir(folder) if folder.exists() else []
        self.writing.update(
            re.sub(r"_\d+", "_N", name[: -len(f".{uuid4().hex}.partial")])
            for name in names
            if name.endswith(".partial")
        )
        for name in (n for n in names if n.endswith(".pth")):
            try:
                check_checksums(folder / name)
                torch.load(folder / name, weights_only=True, map_location="cpu")
            except Exception as error:
                self.damaged.append(f"{name}: {error}")
        last = folder / "last_checkpoint"
        if last.exists() and not (folder / last.read_text()).is_file():
            self.damaged.append(f"last_checkpoint: {last.read_text()!r}")
        if resumed is not None:
            self.resumable += 1
            self.most_lost = max(self.most_lost, completed - resumed)


def _slow_write(sink, data):
    data = memoryview(data).cast("B")
    for start in range(0, len(data), CHUNK):
        sink._file.write(data[start : start + CHUNK])
        sink._file.flush()
        time.sleep(PAUSE)
    return len(data)


def _slowly(call):
    def slow(*arguments, **options):
        time.sleep(PAUSE)
        call(*arguments, **options)
        time.sleep(PAUSE)

    return slow


def _train_slowly(folder, completed, number):
    """Train ``number`` further steps, with saving slowed down, and note each complete step."""
    torch.set_num_threads(1)
    saving = CheckpointHook.after_step

    def note(hook):
        completed.value = hook.trainer.iter + 1
        saving(hook)

    with (
        mock.patch.object(CheckpointHook, "after_step", note),
        mock.patch.object(writing._Sink, "write", _slow_write),
        mock.patch.object(files.os, "replace", _slowly(os.replace)),
        mock.patch.object(files.os, "fsync", _slowly(os.fsync)),
        mock.patch.object(os, "unlink", _slowly(os.unlink)),
    ):
        train(folder, number, resume=True, period=PERIOD, max_to_keep=2)


def kill_checkpointers(folder, number, seed=SEED):
    """Kill that many trainings of a tiny model, each resuming the one before."""
    context = multiprocessing.get_context("forkserver")
    moments = random.Random(seed)
    figures = Figures()
    completed = context.Value("q", 0)
    resumed, longest = 0, 0.0
    for attempt in itertools.count():
        if figures.kills == number:
            return figures
        before = completed.value
        process = context.Process(
            target=_train_slowly, args=(folder, completed, resumed + 3 * PERIOD)
        )
        process.start()
        while completed.value == before and process.is_alive():  # until its first step
            time.sleep(0.001)
        start = time.monotonic()
        # Each 15th is not killed, to know how long they take.
        process.join(moments.uniform(0, 1.1 * longest) if attempt % 15 else None)
        took = time.monotonic() - start
        process.kill()
        process.join()
        if process.exitcode == 0:
            figures.finished += 1
            longest = max(took, longest)
            resumed = completed.value
            continue
        assert process.exitcode == -9, process.exitcode
        trainer, checkpointer = build(folder)
        path = choose_checkpoint(checkpointer)
        first = 0
        if path:
            checkpointer.resume(path)
            first = trainer.iter + 1
        figures.inspect(folder, completed.value, first)
        resumed = first
    raise AssertionError("not reached")


def _train_quickstart(folder, datasets, steps):
    os.environ["DETECTRON2_DATASETS"] = str(datasets)
    output = os.open(folder.with_name("output.txt"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.set_num_threads(1)
    from d2_seesaw.cli import main
    from d2_seesaw.data.quickstart import register_quickstart

    for name in [n for n in DatasetCatalog.list() if n.startswith("quickstart_")]:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    register_quickstart()
    options = [
        *("dataloader.train.num_workers=0", "dataloader.test.num_workers=0"),
        *("dataloader.train.total_batch_size=1", "dataloader.evaluator.report=null"),
        *("train.log_period=1", f"train.checkpointer.period={PERIOD}", "train.device=cpu"),
        *(f"train.max_iter={steps}", f"train.output_dir={folder}"),
    ]
    sys.exit(main(["train", "--config-file", "quickstart/seesaw", "--resume", *options]))


def _steps_in(metrics):
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    steps = [0]
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:  # the line that was being written
            continue
        steps += [record["iteration"] + 1] if "total_loss" in record else []
    return steps[-1]


def kill_trainings(folder, datasets, number, seed=SEED):
    """Kill that many trainings of the quickstart, each resuming the one before."""
    context = multiprocessing.get_context("forkserver")
    moments = random.Random(seed)
    figures = Figures()
    resumed, steps, longest = 0, 3 * PERIOD, None  # the first training is not killed
    while figures.kills < number:
        process = context.Process(target=_train_quickstart, args=(folder, datasets, steps))
        process.start()
        start = time.monotonic()
        process.join(longest and moments.uniform(0, longest))
        took = time.monotonic() - start
        process.kill()
        process.join()
        text = folder.with_name("output.txt").read_text()
        for started in re.findall(r"Starting training from iteration (\d+)", text):
            assert int(started) == resumed, (started, resumed)
        readable = [read_iteration(p) + 1 for p in folder.glob("model_*.pth")]
        resumed = max(readable, default=0)
        if process.exitcode == 0:
            figures.finished += 1
            longest = took
            steps += 3 * PERIOD
            continue
        assert process.exitcode == -9, text[-2000:]
        figures.inspect(folder, _steps_in(folder / "metrics.json"), resumed)
    process = context.Process(target=_train_quickstart, args=(folder, datasets, steps))
    process.start()
    process.join()
    assert process.exitcode == 0
    return figures


def _small_datasets(folder):
    from dataclasses import replace

    from d2_seesaw.synthetic.instances import LongTailSpec, generate_longtail_dataset
    from d2_seesaw.synthetic.profile import DEMO_PROFILE

    tail = replace(DEMO_PROFILE, full_scale_images=1000)
    spec = LongTailSpec(num_train_images=120, num_val_images=12, min_val_images=2, profile=tail)
    generate_longtail_dataset(folder / "quickstart", spec, progress=False)
    return folder


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        start = time.monotonic()
        sys.stdout.write(f"checkpointer: {kill_checkpointers(root / 'tiny', 180)}\n")
        sys.stdout.write(f"{time.monotonic() - start:.0f} s\n")
        start = time.monotonic()
        (root / "whole").mkdir()
        datasets = _small_datasets(root / "datasets")
        sys.stdout.write(f"trainings: {kill_trainings(root / 'whole/run', datasets, 20)}\n")
        sys.stdout.write(f"{time.monotonic() - start:.0f} s\n")
