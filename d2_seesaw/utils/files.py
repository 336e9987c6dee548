"""What is computed once from files and kept: where, and how it is written."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


def default_cache_folder() -> Path:
    """Where results are kept: ``d2_seesaw`` below ``$XDG_CACHE_HOME`` (``~/.cache`` if unset)."""
    return Path(os.getenv("XDG_CACHE_HOME") or "~/.cache").expanduser() / "d2_seesaw"


def digest(value: Any) -> str:
    """A name for a value that JSON can hold: 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]


def file_state(path: str | Path) -> list[int]:
    """Size and time of modification in nanoseconds, by which a changed file is told.

    Raises:
        OSError: the file is not there.
    """
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that appears as ``path`` when the block ends, and not at all if it raises.

    Readers see all of the file or none of it, and processes that write the same are no danger to
    each other. The folder is made if it is not there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".partial", delete=False) as file:
        try:
            yield file
            file.close()
            os.replace(file.name, path)
        except BaseException:
            file.close()
            with contextlib.suppress(OSError):
                os.unlink(file.name)
            raise
