"""In how many images of an annotation file each category occurs, counted once and kept.

Counts belong to the content of the file, so copies of it share them, wherever they lie.
"""

import functools
import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from d2_seesaw.data.annotations.reader import read_annotations
from d2_seesaw.utils.files import default_cache_folder, file_state, written_in_one_step

logger = logging.getLogger(__name__)

_VERSION = 2
_CHUNK = 1 << 20
_KEYS = {"id", "name", "image_count"}


def file_image_counts(json_file: str | Path) -> list[dict[str, Any]]:
    """Count the images of each category of a file in COCO or LVIS format.

    The counts are kept in ``~/.cache/d2_seesaw`` (below ``$XDG_CACHE_HOME`` where that is set).

    Returns:
        ``id``, ``name`` and ``image_count`` of each category, in order of the ids.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: as :func:`~d2_seesaw.data.annotations.reader.read_annotations`.
    """
    content = content_hash(json_file)
    path = default_cache_folder() / f"image_counts_{content}.json"
    counts = _read(path, content)
    if counts is None:
        columns = read_annotations(json_file)
        counts = [
            {"id": category["id"], "name": category["name"], "image_count": count}
            for category, count in zip(
                columns.categories, columns.image_counts().tolist(), strict=True
            )
        ]
        _write(path, content, counts)
    return counts


def content_hash(path: str | Path) -> str:
    """SHA-256 of a file; computed again in this process only if the file changes.

    Raises:
        FileNotFoundError: there is no such file.
    """
    return _content_hash(str(path), *file_state(path))


@functools.lru_cache(maxsize=64)
def _content_hash(path: str, size: int, modified: int) -> str:
    sha256 = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            sha256.update(chunk)
    return sha256.hexdigest()


def _read(path: Path, content: str) -> list[dict[str, Any]] | None:
    try:
        kept = json.loads(path.read_bytes())
        counts = kept["counts"] if [kept["version"], kept["content"]] == [_VERSION, content] else []
        return counts if counts and all(set(count) == _KEYS for count in counts) else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("counts kept in %s cannot be read (%s): counting again", path, error)
        return None


def _write(path: Path, content: str, counts: list[dict[str, Any]]) -> None:
    kept = {"version": _VERSION, "content": content, "counts": counts}
    try:
        with written_in_one_step(path) as file:
            file.write(json.dumps(kept).encode())
    except OSError as error:
        logger.warning("counts of images could not be kept in %s: %s", path, error)
