"""The output folder of a training: refusing, moving aside, and interruptions of both."""

import os
import shutil

import cv2
import numpy as np
import pytest

from d2_seesaw.checkpoint import prepare_folder, run_folder
from d2_seesaw.cli.train.output import save_config
from d2_seesaw.engine import load_config
from d2_seesaw.utils.marks import marked_png
from tests.support.tiny_training import checkpoints, train

RUN = ["config.yaml", "inference", "last_checkpoint", "log.txt", "model_final.pth"]


@pytest.fixture
def folder(tmp_path):
    """A folder with the files of a training and some others."""
    root = tmp_path / "run"
    (root / "inference").mkdir(parents=True)
    for name in (*RUN, "notes.txt", "train.json", "inference/results.json"):
        if name != "inference":
            (root / name).write_text(name)
    return root


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def restart(folder):
    return prepare_folder(str(folder), resume=False, restart=True)


def test_a_restart_moves_the_files_of_the_training_and_no_others(folder):
    before = content(folder)
    prepared = restart(folder)
    assert prepared.moved_to == str(folder / "previous_1")
    assert sorted(os.listdir(folder)) == ["notes.txt", "previous_1", "train.json"]
    assert sorted(os.listdir(folder / "previous_1")) == RUN
    after = {path.removeprefix("previous_1/"): text for path, text in content(folder).items()}
    assert after == before
    assert prepared.notes == [f"Moved the files of the earlier training to {folder}/previous_1"]


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"restart": True}])
@pytest.mark.parametrize("edited", [False, True])
def test_a_config_that_no_training_has_saved_is_not_replaced(tmp_path, options, edited):
    """The user's own config: of another program, or a saved one with a comment of the user."""
    text = "epochs: 3\ntrain: images\n"
    if edited:
        save_config(load_config("quickstart/seesaw"), tmp_path / "config.yaml")
        text = "# mine\n" + (tmp_path / "config.yaml").read_text()
    for name in ("config.yaml", "log.txt", "pictures/1.png", "inference.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    before = content(tmp_path)
    with pytest.raises(ValueError, match=rf"{tmp_path}/config\.yaml is not from a training"):
        prepare_folder(str(tmp_path), **{"resume": False, "restart": False} | options)
    assert content(tmp_path) == before
    (tmp_path / "config.yaml").unlink()
    prepare_folder(str(tmp_path), **{"resume": False, "restart": False} | options)
    assert content(tmp_path) == {k: v for k, v in before.items() if k != "config.yaml"}


def test_a_run_that_ended_before_its_first_checkpoint_starts_again_or_is_moved(tmp_path):
    save_config(load_config("quickstart/seesaw"), tmp_path / "config.yaml")
    (tmp_path / "log.txt").write_text("log")
    before = content(tmp_path)
    for resume in (False, True):
        prepare_folder(str(tmp_path), resume=resume, restart=False)
        assert content(tmp_path) == before
    restart(tmp_path)
    assert content(tmp_path / "previous_1") == before


def test_a_restart_leaves_folders_of_the_users_with_the_names_of_a_run(folder):
    users = ["inference.py", "inference_images/1.png", "pictures/mine.png", "wandb/other/log"]
    for name in (*users, "config.yaml.bak"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("precious")
    drawn = marked_png(cv2.imencode(".png", np.zeros((2, 2), np.uint8))[1].tobytes())
    (folder / "pictures/1.png").write_bytes(drawn)
    restart(folder)
    assert sorted(os.listdir(folder / "previous_1")) == RUN
    (folder / "pictures/mine.png").unlink()
    for name in ("last_checkpoint", "wandb_run.txt"):
        (folder / name).write_text(name)
    restart(folder)
    moved = ["last_checkpoint", "pictures", "wandb", "wandb_run.txt"]
    assert sorted(os.listdir(folder / "previous_2")) == moved


def test_restarts_are_numbered_and_keep_all_earlier_ones(folder):
    restart(folder)
    (folder / "previous_7").mkdir()
    (folder / "model_final.pth").write_text("second")
    assert restart(folder).moved_to.endswith("previous_8")
    assert (folder / "previous_8/model_final.pth").read_text() == "second"
    assert (folder / "previous_1/model_final.pth").read_text() == "model_final.pth"


def test_a_restart_of_an_empty_or_missing_folder_just_starts(tmp_path):
    assert restart(tmp_path / "new").moved_to == ""
    assert os.listdir(tmp_path / "new") == []


def test_files_that_a_command_names_are_found_where_they_were_moved(folder, monkeypatch):
    prepared = restart(folder)
    assert prepared.follow(f"{folder}/config.yaml") == f"{folder}/previous_1/config.yaml"
    monkeypatch.chdir(folder.parent)
    assert prepared.follow("run/model_final.pth") == f"{folder}/previous_1/model_final.pth"
    for path in ("run/notes.txt", "run/none.pth", "../none", "s3://run/config.yaml", ""):
        assert prepared.follow(path) == path


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("renames", range(len(RUN) + 1))
def test_an_interrupted_restart_loses_nothing(folder, monkeypatch, renames, resume):
    before = content(folder)
    rename, done = os.rename, []

    def interrupted(source, target):
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(source)
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(run_folder.os, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            restart(folder)
    if resume:
        prepare_folder(str(folder), resume=True, restart=False)
    else:
        with pytest.raises(ValueError, match="has checkpoints of a training"):
            prepare_folder(str(folder), resume=False, restart=False)
    assert content(folder) == before
    assert restart(folder).moved_to == str(folder / "previous_1")


def test_an_interrupted_restart_does_not_replace_newer_files(folder):
    restart(folder)
    (folder / "previous_1").rename(folder / "previous_1.incomplete")
    (folder / "config.yaml").write_text("newer")
    prepare_folder(str(folder), resume=True, restart=False)
    assert (folder / "config.yaml").read_text() == "newer"
    assert (folder / "previous_1/config.yaml").read_text() == "config.yaml"
    assert (folder / "model_final.pth").read_text() == "model_final.pth"


def test_a_file_that_cannot_be_moved_is_an_error_and_the_next_start_undoes_it(folder, monkeypatch):
    before = content(folder)
    rename = os.rename

    def busy(source, target):
        if source.endswith("model_final.pth"):
            raise OSError(16, "Device or resource busy", source)
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(run_folder.os, "rename", busy)
        with pytest.raises(OSError, match="busy"):
            restart(folder)
    prepare_folder(str(folder), resume=True, restart=False)
    assert content(folder) == before


def test_only_own_partial_files_of_the_folder_itself_are_removed(folder):
    ours = f"model_final.pth.{'a1' * 16}.partial"
    others = ["mine.partial", f"inference/x.{'a1' * 16}.partial", "x.partial.txt"]
    for name in (ours, *others):
        (folder / name).write_text("half")
    prepared = prepare_folder(str(folder), resume=True, restart=False)
    assert prepared.notes == [f"Removed {ours}, which an interrupted process left unfinished"]
    assert not (folder / ours).exists()
    assert all((folder / name).exists() for name in others)


def test_urls_are_left_alone_and_cannot_be_restarted():
    prepare_folder("s3://bucket/run", resume=False, restart=False)
    with pytest.raises(ValueError, match="--restart cannot move the files of s3://bucket/run"):
        restart("s3://bucket/run")


def test_a_training_starts_anew_beside_the_earlier_one_and_both_can_be_resumed(tmp_path):
    train(tmp_path, 4)
    _, start = train(tmp_path, 2, restart=True)
    assert start == 0
    assert checkpoints(tmp_path) == ["model_0000001.pth", "model_final.pth"]
    shutil.move(tmp_path / "previous_1", tmp_path / "moved")
    assert train(tmp_path, 3, resume=True)[1] == 2
    assert train(tmp_path / "moved", 5, resume=True)[1] == 4


def test_a_resumed_training_of_an_empty_folder_starts_at_0(tmp_path):
    assert train(tmp_path / "new", 2, resume=True)[1] == 0
