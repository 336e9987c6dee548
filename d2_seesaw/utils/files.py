"""Files: atomic writes, cache folder and cache keys."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast


def default_cache_folder() -> Path:
    """Return the cache folder, ``d2_seesaw`` in ``$XDG_CACHE_HOME`` (``~/.cache`` if unset)."""
    return Path(os.getenv("XDG_CACHE_HOME") or "~/.cache").expanduser() / "d2_seesaw"


def digest(value: Any) -> str:
    """Return 32 hexadecimal digits that identify a JSON-serializable value."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]


def path_component(text: str) -> str:
    """Return text, such as an id of a file, as one component of a path.

    Separators, reserved and unprintable characters become ``_``. Text of more than 200 bytes ends
    with a part of its SHA-256, so that long texts stay different. A suffix may follow.
    """
    name = _NOT_IN_NAMES.sub("_", "".join(c if c.isprintable() else "_" for c in text))
    if name in ("", ".", ".."):
        return "_" * max(1, len(name))
    if len(encoded := name.encode()) <= _LONGEST_NAME:
        return name
    return f"{encoded[: _LONGEST_NAME - 33].decode(errors='ignore')}_{digest(text)}"


def file_state(path: str | Path) -> list[int]:
    """Return size and modification time in nanoseconds, which change when a file does.

    Raises:
        OSError: the file does not exist.
    """
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


def file_hash(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class WriteError(OSError):
    """Error that names a file that cannot be written, and the cause."""

    def __str__(self) -> str:
        """Return path and cause without the number of the error."""
        return f"{self.filename} cannot be written: {self.strerror}"


# Causes that write(2), fsync(2) and close(2) report without the name of the file.
_WRITE_CAUSES = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE}

# Separators, what Windows does not allow, and in path_component what is not printable.
_NOT_IN_NAMES = re.compile(r'[\\/:*?"<>|]')
_LONGEST_NAME = 200  # bytes, of the 255 of most file systems; atomic_write needs 41 more

_PARTIAL = re.compile(r".+\.[0-9a-f]{32}\.partial")


@contextlib.contextmanager
def atomic_write(
    path: str | os.PathLike[str], *, make_folder: bool = True, durable: bool = True
) -> Iterator[IO[bytes]]:
    """Open a binary file that appears as ``path`` when the block ends.

    If the block raises, ``path`` keeps its earlier content. Readers never see a partial file, and
    several processes may write the same path. A process that is killed may leave a file
    ``NAME.HEX.partial``, see :func:`remove_partial_files`. URLs that Detectron2's ``PathManager``
    can write, such as ``s3://``, are written directly.

    Args:
        path: file to write.
        make_folder: create missing folders.
        durable: wait until the file is on the disk, so that it also survives a loss of power.

    Raises:
        WriteError: the file cannot be written, with its path and the cause.
    """
    if "://" in os.fspath(path):
        from detectron2.utils.file_io import PathManager

        with PathManager.open(os.fspath(path), "wb") as remote:
            yield cast("IO[bytes]", remote)
        return
    with (
        _replacing(Path(path), make_folder=make_folder, durable=durable) as partial,
        open(partial, "xb") as file,  # "x": with the permissions of any new file
    ):
        yield file
        if durable:
            file.flush()
            _sync(file.fileno())


@contextlib.contextmanager
def _replacing(target: Path, *, make_folder: bool, durable: bool) -> Iterator[Path]:
    """Yield a temporary path, whose file becomes ``target`` when the block ends."""
    partial = target.with_name(f"{target.name}.{uuid.uuid4().hex}.partial")
    try:
        if make_folder:
            target.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        os.replace(partial, target)
        if durable:
            sync_folder(target.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        if isinstance(error, OSError) and _is_of(error, partial):
            raise WriteError(error.errno, _cause(error, target), str(target)) from error
        raise


def _is_of(error: OSError, partial: Path) -> bool:
    """Return whether writing failed, and not something else within the block."""
    if error.filename is None:
        return error.errno in _WRITE_CAUSES
    return error.filename in (str(partial), str(partial.parent))


def _cause(error: OSError, target: Path) -> str:
    if error.errno == errno.ENOENT and not target.parent.is_dir():
        return f"the folder {target.parent} does not exist any more"
    return error.strerror or str(error)


def is_write_error(error: BaseException) -> bool:
    """Return whether an error says that a file cannot be written, such as on a full disk."""
    return isinstance(error, WriteError) or (
        isinstance(error, OSError) and error.errno in _WRITE_CAUSES
    )


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Wait until the entries of a folder are on the disk, where the file system can do that."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # such as on Windows
        return
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems lack it
            raise


def remove_partial_files(folder: str | os.PathLike[str]) -> list[str]:
    """Remove what killed processes left of :func:`atomic_write` in a folder, not below it.

    No other process may be writing to the folder.

    Returns:
        The names of the removed files.
    """
    found = [name for name in sorted(os.listdir(folder)) if _PARTIAL.fullmatch(name)]
    for name in found:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, name))
    return found


def write_text(path: str | os.PathLike[str], text: str, *, make_folder: bool = True) -> None:
    """Write ``text`` as UTF-8 with :func:`atomic_write`."""
    with atomic_write(path, make_folder=make_folder) as file:
        file.write(text.encode())
