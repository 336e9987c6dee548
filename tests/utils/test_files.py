import os

import pytest

from d2_seesaw.utils import files
from d2_seesaw.utils.files import (
    WriteError,
    atomic_write,
    default_cache_folder,
    digest,
    file_state,
    remove_partial_files,
    write_text,
)


def test_a_file_appears_only_when_complete(tmp_path):
    path = tmp_path / "new" / "kept"
    with atomic_write(path) as file:
        file.write(b"half")
        assert not path.exists()
        file.write(b" and half")
    assert path.read_bytes() == b"half and half"
    assert os.listdir(path.parent) == ["kept"]


def test_an_error_keeps_the_old_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "kept"
    path.write_bytes(b"before")

    def fail():
        with atomic_write(path) as file:
            file.write(b"half")
            raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        fail()
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["kept"]


def test_the_state_of_a_file_changes_with_size_and_time(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    os.utime(path, ns=(1, 1))
    assert file_state(path) == [3, 1]
    os.utime(path, ns=(1, 2))
    assert file_state(path) == [3, 2]


def test_digests_depend_on_values_and_types():
    assert digest([1, "a"]) == digest([1, "a"])
    assert len(digest("a")) == 32
    assert len({digest([1, "a"]), digest([1, "b"]), digest(["1", "a"])}) == 3


def test_the_cache_folder_follows_the_xdg_rule(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/kept/here")
    assert str(default_cache_folder()) == "/kept/here/d2_seesaw"
    monkeypatch.setenv("HOME", "/home/somebody")
    for unset in ("", None):  # the XDG specification treats empty as unset
        monkeypatch.setenv("XDG_CACHE_HOME", "")
        if unset is None:
            monkeypatch.delenv("XDG_CACHE_HOME")
        assert str(default_cache_folder()) == "/home/somebody/.cache/d2_seesaw"


def test_an_interruption_leaves_no_partial_file(tmp_path):
    def stop():
        with atomic_write(tmp_path / "new" / "folder" / "kept"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert os.listdir(tmp_path / "new" / "folder") == []


def test_the_temporary_file_is_in_the_target_folder_for_an_atomic_move(tmp_path):
    with atomic_write(tmp_path / "kept") as file:
        assert os.path.dirname(file.name) == str(tmp_path)


def test_text_replaces_an_earlier_file_and_is_readable_by_others(tmp_path):
    path = tmp_path / "new" / "page.html"
    for text in ("first", "sécond"):
        write_text(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert os.listdir(path.parent) == ["page.html"]
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode


def test_non_local_paths_use_detectron2s_path_manager(tmp_path, monkeypatch):
    from detectron2.utils.file_io import PathManager

    opened = {}

    def fake_open(path, mode):
        opened["path"], opened["mode"] = path, mode
        return (tmp_path / "remote").open("wb")

    monkeypatch.setattr(PathManager, "open", fake_open)
    write_text("s3://bucket/a.txt", "text")
    assert opened == {"path": "s3://bucket/a.txt", "mode": "wb"}
    assert (tmp_path / "remote").read_bytes() == b"text"


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def note(*arguments, name=name, real=real):
            is_folder = name == "fsync" and os.path.isdir(f"/proc/self/fd/{arguments[0]}")
            calls.append("folder" if is_folder else name)
            real(*arguments)

        monkeypatch.setattr(files.os, name, note)
    write_text(tmp_path / "kept", "text")
    assert calls == ["fsync", "replace", "folder"]
    calls.clear()
    with atomic_write(tmp_path / "picture", durable=False) as file:
        file.write(b"quick")
    assert calls == ["replace"]


def test_what_a_killed_process_leaves_is_never_taken_for_a_checkpoint_and_is_removed(tmp_path):
    with atomic_write(tmp_path / "model_final.pth"):
        (left,) = os.listdir(tmp_path)
        assert not left.endswith(".pth")
        (tmp_path / "copy").write_bytes(b"half")
        os.rename(tmp_path / "copy", tmp_path / left.replace("final", "0000009"))
    assert remove_partial_files(tmp_path) == [left.replace("final", "0000009")]
    assert os.listdir(tmp_path) == ["model_final.pth"]


@pytest.mark.parametrize("number", [28, 122, 27, 5])
def test_a_file_that_cannot_be_written_is_named_with_the_cause(tmp_path, monkeypatch, number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "fsync", fail)
    line = f"{tmp_path}/kept cannot be written: {os.strerror(number)}"
    with pytest.raises(WriteError) as error:
        write_text(tmp_path / "kept", "text")
    assert str(error.value) == line
    assert os.listdir(tmp_path) == []


def test_another_error_within_the_block_is_kept(tmp_path):
    def read_missing():
        with atomic_write(tmp_path / "kept") as file:
            file.write((tmp_path / "missing").read_bytes())

    with pytest.raises(FileNotFoundError, match="missing"):
        read_missing()
    with pytest.raises(WriteError, match=r"gone cannot be written: the folder .* does not exist"):
        write_text(tmp_path / "no" / "gone", "", make_folder=False)
    assert os.listdir(tmp_path) == []


def test_a_file_system_without_fsync_is_accepted(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(files.os, "fsync", unsupported)
    write_text(tmp_path / "kept", "text")
    assert (tmp_path / "kept").read_text() == "text"
