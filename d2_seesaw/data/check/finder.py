"""Hints where a missing image file is."""

import os
import re
import unicodedata
from collections.abc import Callable
from functools import cached_property
from itertools import islice
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

_MOST_FILES = 2_000_000
_DRIVE = re.compile(r"^(file://|[a-zA-Z]:)?/*")


class FileFinder:
    """Search for files under other names or in other folders.

    The folder is listed once, when the first hint is wanted.

    Args:
        folder: the folder in which files are missing.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = str(folder)

    @cached_property
    def _files(self) -> list[str]:
        """Paths below the folder, with forward slashes."""
        found = (
            os.path.relpath(os.path.join(folder, name), self.folder).replace(os.sep, "/")
            for folder, _, names in os.walk(self.folder)
            for name in names
        )
        return sorted(islice(found, _MOST_FILES))

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        return _index(self._files, lambda path: path.name)

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        return _index(self._files, lambda path: path.stem)

    def hint(self, file_name: str) -> str:
        """Return where a file is, such as ``"; a0.JPG exists"``, or an empty string.

        Upper and lower case, the form of Unicode, folders, Windows paths, percent encodings and
        the extension may differ.
        """
        if not self._files:
            return ""
        path = PurePosixPath(_DRIVE.sub("", unquote(file_name).replace("\\", "/")))
        found = self._by_name.get(_folded(path.name), [])
        same = [name for name in found if _folded(name) == _folded(str(path))]
        if same:
            return f"; {same[0]} exists"
        if found:
            others = f", and in {len(found) - 1:,} other folders" * (len(found) > 1)
            if PurePosixPath(found[0]).name != path.name:
                return f"; {found[0]} exists{others}"
            return f"; found in {os.path.dirname(found[0]) or self.folder}{others}"
        other = self._by_stem.get(_folded(path.stem), [])
        return f"; {other[0]} exists" if other else ""


def _index(files: list[str], key: Callable[[PurePosixPath], str]) -> dict[str, list[str]]:
    made: dict[str, list[str]] = {}
    for name in files:
        made.setdefault(_folded(key(PurePosixPath(name))), []).append(name)
    return made


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
