"""Files: atomic writes, cache folder and cache keys."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
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


def file_state(path: str | Path) -> list[int]:
    """Return size and modification time in nanoseconds, which change when a file does.

    Raises:
        OSError: the file does not exist.
    """
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a binary file that appears as ``path`` when the block ends.

    If the block raises, ``path`` keeps its earlier content. Readers never see a partial file, and
    several processes may write the same path. Missing folders are created. URLs that Detectron2's
    ``PathManager`` can write, such as ``s3://``, are written directly.
    """
    if "://" in os.fspath(path):
        from detectron2.utils.file_io import PathManager

        with PathManager.open(os.fspath(path), "wb") as remote:
            yield cast("IO[bytes]", remote)
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{uuid.uuid4().hex}.partial")
    try:
        with open(partial, "xb") as file:  # "x": with the permissions of any new file
            yield file
        os.replace(partial, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8 with :func:`atomic_write`."""
    with atomic_write(path) as file:
        file.write(text.encode())
