"""Checkpoints that are saved, kept and replaced during training, and errors of the disk."""

import functools
import os
import subprocess

import pytest
import torch
from detectron2.engine import HookBase
from detectron2.engine.hooks import EvalHook

from d2_seesaw.checkpoint import choose_checkpoint, prepare_folder
from d2_seesaw.engine import BestCheckpoint
from d2_seesaw.engine.monitoring.metric import UnknownMetricError
from d2_seesaw.utils import files
from d2_seesaw.utils.files import WriteError
from tests.support.tiny_training import build, checkpoints, train


def periodic(folder):
    return [name for name in checkpoints(folder) if name[6].isdigit()]


def numbers(folder):
    return [int(name[6:-4]) for name in periodic(folder)]


def test_checkpoints_are_saved_periodically_and_at_the_end(tmp_path):
    train(tmp_path, 5)
    assert checkpoints(tmp_path) == ["model_0000001.pth", "model_0000003.pth", "model_final.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    for name, iteration in {"model_0000003.pth": 3, "model_final.pth": 4}.items():
        saved = torch.load(tmp_path / name, weights_only=True)
        assert saved["iteration"] == saved["trainer"]["iteration"] == iteration


def test_a_complete_training_gets_its_final_checkpoint_if_it_was_killed_before_it(tmp_path):
    train(tmp_path, 6)
    expected = torch.load(tmp_path / "model_final.pth", weights_only=True)
    (tmp_path / "model_final.pth").unlink()
    train(tmp_path, 6, resume=True)
    found = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert found["iteration"] == found["trainer"]["iteration"] == 5
    torch.testing.assert_close(found["model"], expected["model"], rtol=0, atol=0)


def test_a_training_that_is_longer_than_max_iter_says_so(tmp_path, caplog):
    train(tmp_path, 6)
    train(tmp_path, 4, resume=True)
    assert "has 6 steps and train.max_iter is 4: nothing is trained" in caplog.text


def test_the_limit_holds_over_starts(tmp_path):
    for steps in (7, 11, 12, 20):
        train(tmp_path, steps, resume=True, max_to_keep=3)
        assert numbers(tmp_path) == list(range(1, steps, 2))[-3:]
        assert (tmp_path / "model_final.pth").is_file()


def test_a_lower_limit_deletes_the_oldest_once_a_newer_one_is_complete(tmp_path):
    train(tmp_path, 10)
    train(tmp_path, 12, resume=True, max_to_keep=2)
    assert numbers(tmp_path) == [9, 11]


def test_a_checkpoint_is_deleted_only_after_the_newer_one_is_complete(tmp_path, monkeypatch):
    train(tmp_path, 6, max_to_keep=1)
    seen = []
    replace = os.replace

    def note(source, target):
        seen.append(numbers(tmp_path))
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", note)
    train(tmp_path, 10, resume=True, max_to_keep=1)
    assert seen
    assert all(seen)
    assert numbers(tmp_path) == [9]


def test_later_files_that_could_not_be_resumed_are_neither_counted_nor_deleted(tmp_path):
    train(tmp_path, 4)
    for number in (90, 91, 92):
        (tmp_path / f"model_00000{number}.pth").write_bytes(b"")
    (tmp_path / "model_5.pth").write_bytes(b"")
    train(tmp_path, 8, resume=True, max_to_keep=2)
    assert numbers(tmp_path) == [5, 7, 90, 91, 92, 5]


def test_saving_now_saves_the_last_complete_step_once(tmp_path):
    events = []

    class Stop(HookBase):
        def after_step(self):
            if self.trainer.iter == 2:
                hook = self.trainer.checkpoint_hook
                events.append(os.path.basename(hook.save_now()))
                written = os.stat(tmp_path / events[-1]).st_mtime_ns
                hook.save_now(gather=False)
                assert os.stat(tmp_path / events[-1]).st_mtime_ns == written
                raise SystemExit(143)

    prepare_folder(str(tmp_path), resume=False, restart=False)
    trainer, _ = build(tmp_path, period=100, hooks=[lambda _: Stop()])
    trainer.checkpoint_hook.before_save.append(lambda: events.append("gathered"))
    assert trainer.checkpoint_hook.save_now() == ""  # before the first step
    with pytest.raises(SystemExit):
        trainer.train(0, 9)
    assert events == ["gathered", "model_0000002.pth"]
    assert train(tmp_path, 5, resume=True)[1] == 3


def test_states_are_gathered_before_each_save_and_each_evaluation(tmp_path):
    gathered = []
    trainer, _ = build(tmp_path, period=4, eval_period=3)
    hook = trainer.checkpoint_hook
    hook.before_save.append(lambda: gathered.append(trainer.iter))
    trainer.train(0, 10)
    assert gathered == [2, 3, 5, 7, 8, 9]


VALUES = {1: 0.2, 3: 0.5, 5: 0.5, 7: 0.4, 9: 0.6, 11: 0.3}


def evaluated(folder, steps, *, metric="segm/APr", mode="max", values=VALUES, **options):
    """Train with an evaluation every second step, whose metric is given by iteration."""
    seen = []

    def hooks(checkpointer):
        trainer = checkpointer.checkpointables["trainer"]

        def evaluate():
            iteration = min(trainer.iter, steps - 1)
            seen.append(iteration)
            return {"segm": {"APr": values[iteration], "AP": 0.1}, "bbox": {"AP": -iteration}}

        best = BestCheckpoint(checkpointer, metric, mode, eval_period=2)
        return EvalHook(2, evaluate), best

    made = {}

    def make(index, checkpointer):
        if checkpointer not in made:
            made[checkpointer] = hooks(checkpointer)
        return made[checkpointer][index]

    makers = [functools.partial(make, 0), functools.partial(make, 1)]
    train(folder, steps, hooks=makers, eval_period=2, **options)
    return seen


def best(folder):
    saved = torch.load(folder / "model_best.pth", weights_only=True)
    assert saved["iteration"] == saved["trainer"]["iteration"] == saved["best"]["iteration"]
    return saved["best"]["value"], saved["best"]["iteration"]


def test_the_best_checkpoint_is_kept_whole_with_its_metric(tmp_path):
    evaluated(tmp_path, 8, max_to_keep=1)
    assert best(tmp_path) == (0.5, 3)  # the first of two equal ones
    saved = torch.load(tmp_path / "model_best.pth", weights_only=True)
    assert saved["best"]["metric"] == "segm/APr"
    assert numbers(tmp_path) == [7]
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


@pytest.mark.parametrize(("steps", "expected"), [(10, (0.6, 9)), (12, (0.6, 9))])
def test_the_best_value_survives_resuming(tmp_path, steps, expected):
    evaluated(tmp_path, 8)
    evaluated(tmp_path, steps, resume=True)
    assert best(tmp_path) == expected


def test_a_worse_model_after_resuming_does_not_replace_the_best(tmp_path):
    evaluated(tmp_path, 4)
    weights = torch.load(tmp_path / "model_best.pth", weights_only=True)["model"]
    evaluated(tmp_path, 8, resume=True)
    again = torch.load(tmp_path / "model_best.pth", weights_only=True)["model"]
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_the_smallest_value_can_be_the_best(tmp_path):
    evaluated(tmp_path, 8, metric="bbox/AP", mode="min")
    assert best(tmp_path) == (-7, 7)


def test_an_unreadable_best_checkpoint_or_another_metric_is_replaced(tmp_path, caplog):
    evaluated(tmp_path, 4)
    (tmp_path / "model_best.pth").write_bytes(b"half")
    evaluated(tmp_path, 8, resume=True)
    assert best(tmp_path) == (0.5, 5)
    assert "model_best.pth cannot be read, the next evaluation replaces it" in caplog.text
    evaluated(tmp_path, 10, resume=True, metric="bbox/AP")
    assert best(tmp_path) == (-9, 9)
    assert "is the best by segm/APr (max): the next evaluation replaces it" in caplog.text


def test_a_value_that_is_not_finite_is_never_the_best(tmp_path):
    nan = float("nan")
    evaluated(tmp_path, 6, values={1: nan, 3: 0.2, 5: nan})
    assert best(tmp_path) == (0.2, 3)


def test_a_metric_that_the_evaluation_lacks_is_one_line_with_the_others(tmp_path):
    line = "the evaluation has no 'segm/APx', but bbox/AP, segm/AP, segm/APr"
    with pytest.raises(UnknownMetricError, match=line) as error:
        evaluated(tmp_path, 8, metric="segm/APx")
    assert "\n" not in str(error.value)
    assert numbers(tmp_path) == [1]  # saved before the evaluation


def fail_at(monkeypatch, call, error):
    """Make one kind of system call fail for checkpoints, from now on."""
    real = getattr(os, call)

    def fails(*arguments, **options):
        raise error

    monkeypatch.setattr(files.os, call, fails)
    return real


@pytest.mark.parametrize("cause", ["No space left on device", "Disk quota exceeded"])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_keeps_the_earlier_checkpoints(tmp_path, monkeypatch, call, cause):
    train(tmp_path, 4)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    number = {"No space left on device": 28, "Disk quota exceeded": 122}[cause]
    with monkeypatch.context() as patch:
        fail_at(patch, call, OSError(number, cause))
        line = f"model_0000005.pth cannot be written: {cause}"
        with pytest.raises(WriteError, match=line) as error:
            train(tmp_path, 8, resume=True)
    assert str(error.value) == f"{tmp_path}/{line}"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert train(tmp_path, 8, resume=True)[1] == 4


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mounted)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("cannot mount a file system here")
    yield mounted
    subprocess.run(["umount", str(mounted)], check=True)


def test_a_disk_that_fills_up_is_one_line_and_loses_nothing(small_disk):
    line = r"model_\d+.pth cannot be written: No space left on device"
    with pytest.raises(WriteError, match=line):
        train(small_disk, 100)
    kept = numbers(small_disk)
    assert kept == list(range(1, 2 * len(kept), 2))
    assert [name for name in os.listdir(small_disk) if name.endswith(".partial")] == []
    trainer, checkpointer = build(small_disk)
    checkpointer.resume(choose_checkpoint(checkpointer))
    assert trainer.iter == kept[-1]


def test_a_read_only_disk_is_one_line(small_disk):
    train(small_disk, 2)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OSError, match="cannot be written: Read-only file system"):
        build_and_train(small_disk, 4)


def build_and_train(folder, steps):
    trainer, checkpointer = build(folder)
    checkpointer.resume(choose_checkpoint(checkpointer))
    trainer.train(trainer.iter + 1, steps)


@pytest.mark.parametrize("step", [3, 4])
def test_a_folder_that_is_removed_meanwhile_is_not_made_again(tmp_path, step):
    folder = tmp_path / "run"

    class Remove(HookBase):
        def before_step(self):
            if self.trainer.iter == step:
                for path in folder.iterdir():
                    path.unlink()
                folder.rmdir()

    evaluations = []

    def hooks(_):
        return EvalHook(5, lambda: evaluations.append(1))

    with pytest.raises(WriteError, match=r"written: the folder .*does not exist any more"):
        train(folder, 9, hooks=[lambda _: Remove(), hooks], eval_period=5)
    assert not folder.exists()
    assert not evaluations


def test_an_interruption_while_saving_is_no_other_error(tmp_path, monkeypatch):
    train(tmp_path, 4)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    from d2_seesaw.checkpoint.checkpointer import _Sink

    written = _Sink.write

    def interrupted(sink, data):
        monkeypatch.setattr(sink, "_file", Interrupting(), raising=False)
        return written(sink, data)

    class Interrupting:
        def write(self, data):
            raise KeyboardInterrupt

    monkeypatch.setattr(_Sink, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, 8, resume=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
