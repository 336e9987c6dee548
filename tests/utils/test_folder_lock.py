"""Lock of the output folder: one writer, released when its process ends."""

import errno
import fcntl
import os
import re
import signal
import socket
import time

import pytest

from d2_seesaw.utils import folder_lock as module
from d2_seesaw.utils.folder_lock import (
    LOCK_NAME,
    FolderInUseError,
    check_folder_is_free,
    folder_lock,
    is_locked,
)
from tests.support.processes import is_running, process_of, wait_until

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.1)


def _hold(connection, folder, child_seconds=0):
    """Hold the lock until a message comes. A forked child sleeps, as the worker of a loader."""
    with folder_lock(folder):
        child = 0
        if child_seconds:
            child = os.fork()
            if child == 0:
                time.sleep(child_seconds)
                os._exit(0)
        connection.send((os.getpid(), child))
        connection.recv()
    connection.send("released")
    connection.recv()


def contents(folder):
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


def refusal(folder):
    with pytest.raises(FolderInUseError) as refused, folder_lock(folder):
        pass
    return str(refused.value)


def test_a_second_writer_is_refused_in_one_line_and_changes_nothing(tmp_path):
    (tmp_path / "log.txt").write_text("of the first run")
    with process_of(_hold, tmp_path) as (_, connection):
        pid, _ = connection.recv()
        before = contents(tmp_path)
        line = refusal(tmp_path)
        with pytest.raises(FolderInUseError, match=re.escape(line)):
            check_folder_is_free(tmp_path)
        assert contents(tmp_path) == before
    assert "\n" not in line
    assert f"process {pid} on {socket.gethostname()}, started " in line
    assert re.search(r"started \d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d\. ", line)
    assert repr(str(tmp_path)) in line
    for choice in ("--resume", "--restart", "another train.output_dir"):
        assert choice in line


def test_another_spelling_of_the_folder_is_the_same_lock(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "run2").mkdir()
    monkeypatch.chdir(tmp_path / "run2")
    with process_of(_hold, folder) as (_, connection):
        connection.recv()
        for spelling in (tmp_path / "link", "../run", f"{folder}/../run/", "../link/."):
            assert "is in use by process" in refusal(spelling)
        with folder_lock(tmp_path / "run2"):
            pass


def test_the_lock_ends_with_a_killed_process_although_its_forked_child_lives(tmp_path):
    with process_of(_hold, tmp_path, 60) as (process, connection):
        pid, child = connection.recv()
        assert is_locked(tmp_path)
        os.kill(pid, signal.SIGKILL)
        process.join()
        try:
            assert is_running(child)
            with folder_lock(tmp_path):
                pass
        finally:
            os.kill(child, signal.SIGKILL)


def test_the_lock_outlives_a_forked_child_and_ends_with_its_block(tmp_path):
    with process_of(_hold, tmp_path, 0.01) as (_, connection):
        _, child = connection.recv()
        wait_until(lambda: not is_running(child), 10)
        assert is_locked(tmp_path)
        connection.send("release")
        assert connection.recv() == "released"
        assert not is_locked(tmp_path)
        connection.send("end")


def test_looking_at_an_own_lock_does_not_release_it(tmp_path):
    with folder_lock(tmp_path):
        assert is_locked(tmp_path)
        assert "is in use by this process" in refusal(tmp_path)
        with process_of(_look, tmp_path) as (_, connection):
            assert connection.recv() is True


def _look(connection, folder):
    connection.send(is_locked(folder))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": 1, "host": "a"}', b"\xff\xfe"])
def test_a_leftover_file_of_any_content_locks_nothing(tmp_path, content):
    (tmp_path / LOCK_NAME).write_bytes(content)
    assert not is_locked(tmp_path)
    check_folder_is_free(tmp_path)
    with folder_lock(tmp_path):
        pass
    assert (tmp_path / LOCK_NAME).read_bytes() == b""


def test_a_holder_without_a_readable_record_is_refused_too(tmp_path):
    with process_of(_hold, tmp_path) as (_, connection):
        connection.recv()
        (tmp_path / LOCK_NAME).write_text("?")
        assert "is in use by another run" in refusal(tmp_path)


def test_a_lock_whose_file_was_removed_is_taken_on_the_new_file(tmp_path):
    with process_of(_hold, tmp_path) as (_, connection):
        connection.recv()
        (tmp_path / LOCK_NAME).unlink()
        with folder_lock(tmp_path):
            assert is_locked(tmp_path)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_warned_about(tmp_path, monkeypatch, caplog, code):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "lockf", fail)
    assert not is_locked(tmp_path)
    with folder_lock(tmp_path):
        pass
    assert f"The file system of {tmp_path} has no locks" in caplog.text


def test_a_url_is_not_locked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with folder_lock("s3://bucket/run"):
        assert not is_locked("s3://bucket/run")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_an_error_of_the_system(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError), folder_lock(tmp_path / "file/run"):
        pass
