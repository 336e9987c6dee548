"""Marks by which a file of this project is told from a user's own.

Pages and pictures have a mark in the file. For files that cannot have one, such as results and
videos, a record in the output folder lists what was written there. A file with neither is not
replaced unasked.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

from d2_seesaw.utils.files import write_text

COMMENT = b"Software: d2_seesaw"
"""Comment of a JPEG file."""

RECORD = ".d2_seesaw.written.json"
"""Name of the record in an output folder."""

_TEXT = b"Software\0d2_seesaw"  # of a PNG file
_META = b'<meta name="generator" content="d2_seesaw">'  # of the pages' template
_MARKED = (".html", ".htm", ".png")
_HEADER_OF_PNG = 33  # bytes of its signature and of its first chunk
_BEGINNING = 512  # bytes of a file in which its mark is


def marked_png(encoded: bytes) -> bytes:
    """Insert the mark into an encoded PNG file.

    It is a chunk of type tEXt with the keyword "Software" (section 11.3.3 of the PNG standard).
    """
    chunk = b"tEXt" + _TEXT
    length, check = struct.pack(">I", len(_TEXT)), struct.pack(">I", zlib.crc32(chunk))
    return encoded[:_HEADER_OF_PNG] + length + chunk + check + encoded[_HEADER_OF_PNG:]


def has_mark(path: str | os.PathLike[str]) -> bool:
    """Return whether a file begins as those of this project do."""
    with open(path, "rb") as file:
        beginning = file.read(_BEGINNING)
    return any(mark in beginning for mark in (COMMENT, _TEXT, _META))


def recorded_files(folder: str | os.PathLike[str]) -> set[str]:
    """Return the files that this project has written to a folder, relative to it.

    Empty without a record, or if it is damaged.
    """
    try:
        names = json.loads(Path(folder, RECORD).read_text(encoding="utf-8"))["files"]
        return {name for name in names if isinstance(name, str)}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def record_files(folder: str | os.PathLike[str], names: Iterable[str]) -> None:
    """Add files to the record of a folder, before they are written.

    So files that a killed process leaves are known, too.

    Args:
        folder: Output folder; created.
        names: Paths relative to it, with ``/``.

    Raises:
        WriteError: the record cannot be written.
    """
    files = sorted(recorded_files(folder).union(names))
    write_text(Path(folder, RECORD), json.dumps({"files": files}, indent=1) + "\n")


def check_replaceable(paths: Iterable[str | os.PathLike[str]]) -> None:
    """Refuse to replace files that this project has not written.

    Args:
        paths: Files that are going to be written, of which some may exist.

    Raises:
        FileExistsError: one exists that has no mark and is not in the record of its folder.
    """
    for path in map(Path, paths):
        if os.path.lexists(path) and not _is_own(path):
            raise FileExistsError(
                f"{path} exists, and is not from an earlier run of this command: choose "
                "another output, or --overwrite replaces it"
            )


def _is_own(path: Path) -> bool:
    return path.is_file() and (has_mark(path) or path.name in recorded_files(path.parent))


def claim_outputs(paths: Iterable[str | os.PathLike[str]], *, overwrite: bool) -> None:
    """Check that files may be written, and record those that cannot have a mark.

    Args:
        paths: Files that are going to be written. Pages and PNG files get a mark in themselves.
        overwrite: Whether files of other origin may be replaced.

    Raises:
        FileExistsError: without ``overwrite``, see :func:`check_replaceable`.
        WriteError: a record cannot be written.
    """
    files = list(map(Path, paths))
    if not overwrite:
        check_replaceable(files)
    unmarked = [path for path in files if path.suffix.lower() not in _MARKED]
    for folder in dict.fromkeys(path.parent for path in unmarked):
        record_files(folder, [path.name for path in unmarked if path.parent == folder])
