"""Lock of an output folder: one writer at a time.

The lock is a POSIX record lock (``fcntl.lockf``) on a file in the folder. The kernel releases it
when its process ends, however it ends. Forked processes do not inherit it, so the workers of a data
loader cannot keep it alive, which they would with ``flock``. It works across machines on NFS. It
belongs to the file itself, so links and other spellings of the folder lead to the same lock.

A process loses a POSIX lock when it closes any descriptor of the file. For that reason, code that
copies or moves an output folder leaves out :data:`LOCK_NAME`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

logger = logging.getLogger(__name__)

LOCK_NAME = ".d2_seesaw.lock"
# Time for a process that is ending, or that only looked, to release the lock.
PATIENCE = 1.0  # seconds

_HELD_ELSEWHERE = {errno.EACCES, errno.EAGAIN}
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
# Files whose lock this process holds: the kernel would grant it a second time.
_held: set[tuple[int, int, int]] = set()


class FolderInUseError(OSError):
    """Error for an output folder that another run writes to."""


@contextlib.contextmanager
def folder_lock(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Hold the lock of an output folder during the ``with`` block.

    The folder is created. A URL is not locked. A file system without locks is warned about, because
    a second run is then not noticed.

    Raises:
        FolderInUseError: another run holds the lock. One line gives its host, process and start.
        OSError: the folder or the file of the lock cannot be written.
    """
    if "://" in os.fspath(folder):
        yield
        return
    path = Path(folder) / LOCK_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _acquire(path)
    try:
        yield
    finally:
        _release(descriptor)


def check_folder_is_free(folder: str | os.PathLike[str]) -> None:
    """Check that no run holds the lock of a folder; nothing is written.

    Raises:
        FolderInUseError: a run holds it.
    """
    path = Path(folder) / LOCK_NAME
    deadline = time.monotonic() + PATIENCE
    while is_locked(folder):
        if time.monotonic() > deadline:
            raise FolderInUseError(_in_use(path))
        time.sleep(0.05)


def is_locked(folder: str | os.PathLike[str]) -> bool:
    """Return whether a run holds the lock of a folder, this process included."""
    if "://" in os.fspath(folder):
        return False
    try:
        status = os.stat(Path(folder) / LOCK_NAME)
        if _key(status) in _held:  # opening and closing the file would release the lock
            return True
        descriptor = os.open(Path(folder) / LOCK_NAME, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _HELD_ELSEWHERE
    finally:
        os.close(descriptor)
    return False


def _acquire(path: Path) -> int:
    """Return the descriptor of the locked file."""
    deadline = time.monotonic() + PATIENCE
    while True:
        descriptor = _try_to_acquire(path)
        if descriptor is not None:
            return descriptor
        if time.monotonic() > deadline:
            raise FolderInUseError(_in_use(path))
        time.sleep(0.05)


def _try_to_acquire(path: Path) -> int | None:
    """Return the descriptor of the locked file, or None if the lock is held."""
    with contextlib.suppress(FileNotFoundError):
        if _key(os.stat(path)) in _held:
            return None
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD_ELSEWHERE:
            os.close(descriptor)
            return None
        if error.errno not in _NO_LOCKS:
            os.close(descriptor)
            raise
        logger.warning(
            "The file system of %s has no locks (%s): a second run in this folder is not noticed",
            path.parent,
            error.strerror,
        )
    status = os.fstat(descriptor)
    if not _is_at(path, status):  # removed or moved away in between
        os.close(descriptor)
        return None
    _held.add(_key(status))
    _write_holder(descriptor)
    return descriptor


def _release(descriptor: int) -> None:
    _held.discard(_key(os.fstat(descriptor)))
    with contextlib.suppress(OSError):  # such as a full disk or a lost server
        os.ftruncate(descriptor, 0)
    os.close(descriptor)


def _key(status: os.stat_result) -> tuple[int, int, int]:
    return os.getpid(), status.st_dev, status.st_ino


def _is_at(path: Path, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), status)
    except FileNotFoundError:
        return False


def _write_holder(descriptor: int) -> None:
    started = datetime.now().astimezone().isoformat(" ", "seconds")
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "started": started}
    with contextlib.suppress(OSError):  # the lock holds without it
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def _in_use(path: Path) -> str:
    return (
        f"train.output_dir {str(path.parent)!r} is in use by {_holder(path)}. When that run has "
        "ended, continue it with --resume or start over with --restart; or choose another "
        "train.output_dir"
    )


def _holder(path: Path) -> str:
    if path.exists() and _key(os.stat(path)) in _held:
        return "this process"
    try:
        holder = json.loads(path.read_text())
        return f"process {holder['pid']} on {holder['host']}, started {holder['started']}"
    except (OSError, ValueError, TypeError, KeyError):
        return "another run"
