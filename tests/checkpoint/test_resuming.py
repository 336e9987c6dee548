"""Every state of an output folder resumes the newest readable checkpoint, or is one clear line."""

import builtins
import logging
import os
import pickle
import re
import shutil
import tempfile
import zipfile

import pytest
import torch
from torch import nn

from d2_seesaw.checkpoint import choose_checkpoint, prepare_folder
from d2_seesaw.checkpoint.run_folder import move_aside
from tests.support.ranks import run_on_ranks
from tests.support.tiny_training import Net, build, change, train

LEFT = f"model_final.pth.{'0f' * 16}.partial"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished training with checkpoints of the iterations 1, 3 and 5, and the final one of 5."""
    folder = tmp_path_factory.mktemp("trained")
    train(folder, 6)
    return folder


def newest(damage):
    """Return a function that damages both checkpoints of iteration 5."""

    def both(folder, **patches):
        for name in ("model_0000005.pth", "model_final.pth"):
            damage(folder / name, **patches)

    return both


def each(damage):
    def every(folder, **patches):
        for path in folder.glob("model_*.pth"):
            damage(path, **patches)

    return every


def truncated(path):
    path.write_bytes(path.read_bytes()[:-200])


def emptied(path):
    path.write_bytes(b"")


def flipped(name):
    """Change one bit in a record of the archive."""

    def flip(path):
        with zipfile.ZipFile(path) as archive:
            (record,) = [r for r in archive.infolist() if r.filename.endswith(name)]
            middle = archive.read(record)[record.file_size // 2 :]
        content = path.read_bytes()
        at = content.index(middle, record.header_offset)
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])

    return flip


def replaced(make):
    def replace(path):
        path.unlink()
        make(path)

    return replace


def written(content):
    return lambda path: path.write_bytes(content)


def saved(content):
    return lambda path: torch.save(content, path)


def changed(**changes):
    return lambda path: change(path, **changes)


def zipped(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "no tensors")


MARK = os.path.join(tempfile.gettempdir(), "d2_seesaw_was_executed")


class Code:
    def __reduce__(self):
        return (os.system, (f"touch {MARK}",))


def coded(path):
    torch.save({"model": {}, "iteration": 9, "trainer": Code()}, path)


def nan(weights):
    return {**weights, "linear.weight": torch.full((2, 3), float("nan"))}


def no_optimizer(state):
    return {key: value for key, value in state.items() if key != "optimizer"}


def two_groups(state):
    return {**state, "optimizer": {"state": {}, "param_groups": [{"params": [0]}] * 2}}


def linked(path):
    target = path.with_name(f"elsewhere_{path.name}.bin")
    path.rename(target)
    path.symlink_to(target)


def unlink(*names):
    def remove(folder):
        for name in names:
            (folder / name).unlink()

    return remove


def last(content):
    return lambda folder: (folder / "last_checkpoint").write_bytes(content)


def last_is_a_folder(folder):
    (folder / "last_checkpoint").unlink()
    (folder / "last_checkpoint").mkdir()


def named_too_late(folder):
    shutil.copy(folder / "model_0000001.pth", folder / "model_0009999.pth")


def only_weights_of_others(folder):
    for path in folder.glob("model_*.pth"):
        path.unlink()
    torch.save({"model": Net().state_dict()}, folder / "model_zoo.pth")
    torch.save({"model": Net().state_dict()}, folder / "model_final_ema.pth")


def interrupted_restart(folder):
    move_aside(str(folder))
    (folder / "previous_1").rename(folder / "previous_1.incomplete")


def half_interrupted_restart(folder):
    (folder / "previous_1.incomplete").mkdir()
    for path in folder.glob("model_0*.pth"):
        path.rename(folder / "previous_1.incomplete" / path.name)


STATES = {
    # What an earlier version of this command did not survive.
    "final checkpoint truncated": (lambda f: truncated(f / "model_final.pth"), 5, "truncated"),
    "last_checkpoint empty": (last(b""), 5, ""),
    "named checkpoint deleted": (unlink("model_final.pth"), 5, ""),
    "newest truncated": (newest(truncated), 3, "truncated"),
    "last_checkpoint deleted": (unlink("last_checkpoint"), 5, ""),
    "partial file left": (lambda f: (f / LEFT).write_bytes(b"half"), 5, ""),
    "NaN weights": (newest(changed(model=nan)), 3, "values are NaN"),
    "negative counts": (
        newest(changed(model=lambda w: {**w, "class_counts": torch.tensor([-7, 0, 0])})),
        3,
        "negative class count",
    ),
    # Others.
    "newest empty": (newest(emptied), 3, "empty"),
    "a bit of the structure changed": (newest(flipped("data.pkl")), 3, "damaged"),
    "a bit of the weights changed": (newest(flipped("data/0")), 3, "damaged"),
    "newest is a folder": (newest(replaced(os.mkdir)), 3, "a folder"),
    "newest is a broken link": (newest(replaced(lambda p: p.symlink_to("x"))), 3, "a link to"),
    "newest is a link": (newest(linked), 5, ""),
    "newest is a pipe": (newest(replaced(os.mkfifo)), 3, "not a regular file"),
    "newest is text": (newest(written(b"no checkpoint")), 3, "not a zip file of torch.save"),
    "newest is another archive": (newest(zipped), 3, "in archive|PytorchStreamReader"),
    "newest holds code": (newest(coded), 3, "not a file of torch.save with tensors"),
    "newest is an old pickle": (newest(written(pickle.dumps({}))), 3, "not a zip file"),
    "newest is a list": (newest(saved([1, 2])), 3, "state of a training"),
    "newest holds weights only": (
        newest(changed(trainer=None, iteration=None)),
        3,
        "state of a training",
    ),
    "newest has no iteration": (newest(changed(iteration="six")), 3, "state of a training"),
    "newest has no optimizer": (newest(changed(trainer=no_optimizer)), 3, "of the optimizer"),
    "newest has a broken state": (newest(changed(trainer="text")), 3, "of the optimizer"),
    "other groups of parameters": (newest(changed(trainer=two_groups)), 3, "groups of parameters"),
    "newest has other shapes": (
        newest(changed(model=Net(width=5).state_dict())),
        3,
        r"another model: linear.weight has shape \(2, 5\) instead of \(2, 3\)",
    ),
    "newest is of another model": (
        newest(changed(model=nn.Linear(3, 2).state_dict())),
        3,
        "another model: class_counts is missing, and 7 more",
    ),
    "last_checkpoint leads outside": (last(b"../x.pth"), 5, ""),
    "last_checkpoint is a folder": (last_is_a_folder, 5, ""),
    "last_checkpoint is binary": (last(b"\xff\x00\x01"), 5, ""),
    "last_checkpoint is older": (last(b"model_0000001.pth"), 5, ""),
    "a name promises too much": (named_too_late, 5, ""),
    "a restart was interrupted": (interrupted_restart, 5, ""),
    "a restart was half done": (half_interrupted_restart, 5, ""),
    "weights of others": (only_weights_of_others, None, ""),
    "all truncated": (each(truncated), ValueError, "truncated"),
    "all empty": (each(emptied), ValueError, "empty"),
    "all are folders": (each(replaced(os.mkdir)), ValueError, "a folder"),
    "all of another model": (
        each(changed(model=nn.Linear(3, 2).state_dict())),
        ValueError,
        "of an",
    ),
}


@pytest.mark.parametrize("state", STATES)
def test_the_newest_readable_checkpoint_is_resumed_whatever_the_folder_holds(
    trained, tmp_path, caplog, state
):
    damage, expected, reason = STATES[state]
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    damage(folder)
    before = {p.name for p in folder.iterdir()} - {"previous_1.incomplete", LEFT}
    prepare_folder(str(folder), resume=True, restart=False)
    trainer, checkpointer = build(folder)
    with caplog.at_level(logging.WARNING, "d2_seesaw"):
        if expected is ValueError:
            with pytest.raises(ValueError, match=reason) as error:
                choose_checkpoint(checkpointer)
            assert "\n" not in str(error.value)
            assert all(f"model_{n}.pth" in str(error.value) for n in ("0000003", "final"))
        elif expected is None:
            assert choose_checkpoint(checkpointer) == ""
        else:
            checkpointer.resume(choose_checkpoint(checkpointer))
            assert trainer.iter == expected
    skipped = [r.getMessage() for r in caplog.records if r.getMessage().startswith("Skipped")]
    assert bool(skipped) == bool(reason)
    for line in skipped:
        assert "\n" not in line
    assert not reason or any(re.search(reason, line) for line in skipped)
    assert before <= {p.name for p in folder.iterdir()}  # nothing was deleted
    assert not (folder / LEFT).exists()
    assert not os.path.exists(MARK)


@pytest.mark.parametrize("state", [s for s in STATES if STATES[s][1] is not None])
def test_a_plain_start_never_begins_at_0_beside_checkpoints(trained, tmp_path, state):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    STATES[state][0](folder)
    line = r"has checkpoints of a training .*--resume .*--restart .*train.output_dir="
    with pytest.raises(ValueError, match=line) as error:
        prepare_folder(str(folder), resume=False, restart=False)
    assert "\n" not in str(error.value)


def test_a_checkpoint_without_permission_is_skipped(trained, tmp_path, monkeypatch, caplog):
    shutil.copytree(trained, tmp_path / "run")
    opened = builtins.open

    def refuse(file, *arguments, **options):
        if "model_final" in os.fspath(file) if not isinstance(file, int) else False:
            raise PermissionError(13, "Permission denied", file)
        return opened(file, *arguments, **options)

    monkeypatch.setattr(builtins, "open", refuse)
    _, checkpointer = build(tmp_path / "run")
    with caplog.at_level(logging.WARNING, "d2_seesaw"):
        assert choose_checkpoint(checkpointer).endswith("model_0000005.pth")
    assert "model_final.pth: Permission denied" in caplog.text


def test_a_state_that_does_not_fit_is_one_line(trained, tmp_path):
    shutil.copy(trained / "model_final.pth", tmp_path)
    change(tmp_path / "model_final.pth", trainer=lambda s: {**s, "hooks": 3})
    _, checkpointer = build(tmp_path)
    with pytest.raises(
        ValueError, match=r"model_final\.pth does not fit this training, .* 'int' object"
    ) as error:
        checkpointer.resume(choose_checkpoint(checkpointer))
    assert "\n" not in str(error.value)


def test_a_resumed_training_has_the_state_of_the_file(trained, tmp_path):
    expected = torch.load(trained / "model_0000005.pth", weights_only=True)
    trainer, checkpointer = build(trained)
    checkpointer.resume(choose_checkpoint(checkpointer))
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, expected["model"][name]), name
    for group, saved in zip(
        trainer.optimizer.state_dict()["state"].values(),
        expected["trainer"]["optimizer"]["state"].values(),
        strict=True,
    ):
        assert torch.equal(group["momentum_buffer"], saved["momentum_buffer"])


def _choose_with_view(folder, view):
    if torch.distributed.get_rank():
        view(folder)
    _, checkpointer = build(folder)
    try:
        return choose_checkpoint(checkpointer)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _other_content(folder):
    from d2_seesaw.checkpoint import resuming

    real = resuming._fingerprint
    resuming._fingerprint = lambda path: real(path) and "another"


@pytest.mark.dist
@pytest.mark.slow
def test_ranks_choose_the_same_checkpoint_and_notice_another_folder(trained):
    same = run_on_ranks(_choose_with_view, str(trained), str, world_size=2)
    assert same == [str(trained / "model_final.pth")] * 2
    main, other = run_on_ranks(_choose_with_view, str(trained), _other_content, world_size=2)
    assert main.startswith("OtherRankError: ")
    for line in (main, other):
        assert "rank 1 sees another folder than rank 0" in line
        assert "has another content there" in line
