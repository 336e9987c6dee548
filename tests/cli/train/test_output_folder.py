"""`d2-seesaw train` in a folder that holds a training, and on a disk that is full."""

import json
import os
import re
import shutil
import subprocess

import pytest
import torch
from detectron2.engine import hooks

from d2_seesaw.checkpoint.resuming import training_checkpoints
from d2_seesaw.utils.folder_lock import LOCK_NAME
from tests.cli.train.test_command import line_of, without_masks
from tests.support.loggers import loggers_kept

PARTIAL = f"model_final.pth.{'0f' * 16}.partial"


def state(folder):
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and path.name != LOCK_NAME
    }


def test_a_second_training_in_the_folder_is_refused_moved_aside_or_resumed(own, tmp_path, capsys):
    run = tmp_path / "run"
    with loggers_kept():
        assert own("train.seed=1", change=without_masks) == 0
    before = state(run)

    line = line_of(own, change=without_masks)
    assert "has checkpoints of a training (model_final.pth): --resume continues it" in line
    assert state(run) == before

    assert "leave out --resume" in line_of(own, "--resume", "--restart", change=without_masks)
    assert state(run) == before

    # The earlier training may be the start of the new one, and give its config.
    (run / PARTIAL).write_bytes(b"half")
    start = f"train.init_checkpoint={run}/model_final.pth"
    assert own("--restart", start, change=without_masks) == 0
    moved = {name: content for name, (content, _) in state(run / "previous_1").items()}
    assert moved == {name: content for name, (content, _) in before.items()}
    assert not (run / PARTIAL).exists()
    steps = [json.loads(x)["iteration"] for x in (run / "metrics.json").read_text().splitlines()]
    assert steps[0] == 0
    log = (run / "log.txt").read_text()
    assert f"Moved the files of the earlier training to {run}/previous_1" in log
    assert "Environment info" in log
    assert f"init_checkpoint: {run}/previous_1/model_final.pth" in (run / "config.yaml").read_text()

    capsys.readouterr()
    options = ["--resume", "train.max_iter=2", "train.best_checkpoint.metric=segm/APx"]
    line = line_of(own, *options, change=without_masks)
    assert "the evaluation has no 'segm/APx', but bbox/AP" in line
    assert torch.load(run / "model_final.pth", weights_only=True)["iteration"] == 1
    output = capsys.readouterr()
    assert "Traceback" not in output.out + output.err
    assert "Starting training from iteration 1" in output.out


def test_a_config_of_the_users_in_the_output_folder_is_kept(own, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text("precious")
    line = line_of(own, change=without_masks)
    assert f"{tmp_path}/run/config.yaml is not from a training" in line
    assert {name: text for name, (text, _) in state(tmp_path / "run").items()} == {
        "config.yaml": b"precious"
    }


def test_a_resumed_training_of_an_empty_folder_says_that_it_starts_at_0(own, tmp_path, capsys):
    assert own("--resume", change=without_masks) == 0
    assert f"No checkpoint in {tmp_path}/run: training starts at 0" in capsys.readouterr().out
    # An evaluation in the folder of a training changes only its own files: the thresholds name the
    # dataset, which has another name here.
    run = tmp_path / "run"
    (run / PARTIAL).write_bytes(b"half")
    before = state(run)
    written = ("inference", "log", "model_final.thresholds")
    kept = {k: v for k, v in before.items() if not k.startswith(written)}
    start = f"train.init_checkpoint={run}/model_final.pth"
    assert own("--eval-only", start, "train.seed=9", change=without_masks) == 0
    after = state(run)
    assert {name: after[name] for name in kept} == kept
    old, new = (json.loads(s["model_final.thresholds.json"][0]) for s in (before, after))
    assert old | {"split": new["split"]} == new
    assert old["split"] | {"dataset": new["split"]["dataset"]} == new["split"]
    assert "seed: 9" in (run / "config_eval.yaml").read_text()


@pytest.fixture
def disk(tmp_path):
    """Return a function that mounts the output folder as a file system of so many KiB."""
    run = tmp_path / "run"
    run.mkdir()

    def mount(size):
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(run)]
        if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("cannot mount a file system here")
        return run

    yield mount
    # The log may still be open.
    subprocess.run(["umount", "--lazy", str(run)], check=False, capture_output=True)


@pytest.mark.parametrize(
    ("size", "line"),
    [
        (4, "run/config.yaml cannot be written: No space left on device"),
        (44, r"a file in .*/run cannot be written: No space left on device"),
        pytest.param(
            2000,
            r"run/model_0000007\.pth cannot be written: No space left on device",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_full_disk_ends_the_training_in_one_line(own, disk, capfd, size, line):
    run = disk(size)
    steps = ["train.max_iter=60", "train.checkpointer.period=8", "train.log_period=1"]
    text = line_of(own, *steps, change=without_masks)
    assert re.search(line, text), text
    output = capfd.readouterr()
    for unwanted in ("Traceback", "Logging error", "Exception"):
        assert unwanted not in output.out + output.err
    assert output.err.count("cannot be written") <= 2  # the log and its copy at most
    assert training_checkpoints(run) == []
    assert not [name for name in os.listdir(run) if name.endswith(".partial")]


def test_a_removed_folder_is_said_and_not_made_again(own, tmp_path, monkeypatch, capfd):
    timer = hooks.IterationTimer.after_step

    def remove(hook):
        timer(hook)
        if hook.trainer.iter == 2:
            shutil.rmtree(tmp_path / "run")

    monkeypatch.setattr(hooks.IterationTimer, "after_step", remove)
    line = line_of(own, "train.max_iter=9", "train.log_period=1", change=without_masks)
    assert line.endswith(
        f"the output folder {tmp_path}/run was removed or is not accessible any more"
    )
    assert not (tmp_path / "run").exists()
    output = capfd.readouterr()
    assert "Traceback" not in output.out + output.err
