"""Annotation files in COCO or LVIS format: parsed once, and read from a kept copy after that.

The copy holds numbers and text in NumPy's format, which is read without executing anything. It
belongs to one state of the file, its size and time of modification, and is written in one step.
In how many images each category occurs is kept beside it. These counts belong to the content of the
file, so copies of it share them, wherever they lie.
"""

import functools
import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from d2_seesaw.data.annotations.annotation_json import parse_compactly
from d2_seesaw.data.annotations.schema import columns_from_json
from d2_seesaw.data.annotations.table import ARRAYS, AnnotationColumns, collection_paused
from d2_seesaw.utils.files import atomic_write, default_cache_folder, digest, file_state

logger = logging.getLogger(__name__)

CACHE_SWITCH = "D2_SEESAW_ANNOTATION_CACHE"
"""Environment variable; ``0`` parses annotation files on every start and keeps nothing."""

_LEAST_BYTES_KEPT = 1 << 24  # a smaller file is parsed in less than a second
_VERSION = 2
_SHOWN = 5
_HEADER = ("images", "categories", "left_out")

_COUNTS_VERSION = 2
_CHUNK = 1 << 20
_KEYS = {"id", "name", "image_count"}


def read_annotations(json_file: str | Path) -> AnnotationColumns:
    """Read annotations in COCO or LVIS format; what is not federated needs no federated fields.

    Files of 16 MiB and more are kept as columns in ``~/.cache/d2_seesaw`` (below
    ``$XDG_CACHE_HOME`` where that is set), unless ``D2_SEESAW_ANNOTATION_CACHE=0``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file that is no JSON or lacks what is needed, or annotations of unknown
            images or categories, of one id, or with boxes or masks that are no finite numbers.
    """
    kept = _kept_copy(json_file)
    state = _state(json_file)
    columns = None if kept is None else _read_copy(kept, state)
    if columns is None:
        columns = _parsed(json_file)
        if kept is not None:
            _write_copy(kept, columns, state)  # of before: a change since then is noticed
    for reason, number in columns.left_out.items():
        logger.warning("%s: %d annotations %s are left out", json_file, number, reason)
    return columns


def read_categories(json_file: str | Path) -> list[dict[str, Any]]:
    """The ``categories`` of :func:`read_annotations`, quickly where a copy is kept.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_annotations`.
    """
    kept = _kept_copy(json_file)
    if kept is not None:
        try:
            with np.load(kept, allow_pickle=False) as archive:
                header = _header(archive)
            if header["state"] == _state(json_file):
                return header["categories"]
        except Exception as error:  # reading the annotations says more, and mends it
            logger.debug("categories kept in %s cannot be read (%s)", kept, error)
    return read_annotations(json_file).categories


def _parsed(json_file: str | Path) -> AnnotationColumns:
    start = time.monotonic()
    with collection_paused():
        columns, complaints = columns_of(json_file, parse_json(json_file, compact=True))
    if complaints:
        shown = "; ".join(complaints[:_SHOWN]) + ("; ..." if complaints[_SHOWN:] else "")
        raise ValueError(
            f"{json_file}: {len(complaints)} annotations cannot be used: {shown}. All that is "
            "wrong: d2-seesaw check ANNOTATIONS IMAGES"
        )
    seconds = time.monotonic() - start
    if seconds > 1:
        logger.info("%s took %.1f s to read", json_file, seconds)
    return columns


def parse_json(json_file: str | Path, *, compact: bool = False) -> dict[str, Any]:
    """The content of a JSON file that holds an object.

    Args:
        json_file: the file.
        compact: polygons of ``annotations`` as arrays, see ``annotation_json.py``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON, or holds something else.
    """
    try:
        if compact:
            content = parse_compactly(json_file)
        else:
            with open(json_file, encoding="utf-8") as file, collection_paused():
                content = json.load(file)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{json_file} is no JSON file: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{json_file} must hold an object with images, annotations and categories, "
            f"got a {type(content).__name__}"
        )
    return content


def columns_of(
    json_file: str | Path, content: dict[str, Any]
) -> tuple[AnnotationColumns, list[str]]:
    """``columns_from_json`` whose errors name the file."""
    try:
        return columns_from_json(content)
    except ValueError as error:
        raise ValueError(f"{json_file} is not in COCO or LVIS format: {error}") from error


def _kept_copy(json_file: str | Path) -> Path | None:
    """Where the columns of this file are kept, if they are to be."""
    if os.getenv(CACHE_SWITCH) == "0" or file_state(json_file)[0] < _LEAST_BYTES_KEPT:
        return None
    return default_cache_folder() / f"annotations_{digest(os.path.abspath(json_file))}.npz"


def _state(json_file: str | Path) -> list[int]:
    return [_VERSION, *file_state(json_file)]


def _header(archive: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(archive["header"].tobytes())


def _read_copy(path: Path, state: list[int]) -> AnnotationColumns | None:
    """The columns kept for this state of the file, if there are such."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            header = _header(archive)
            if header["state"] != state:
                return None
            header = {key: header[key] for key in _HEADER}
            return AnnotationColumns(**header, **{name: archive[name] for name in ARRAYS})
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged archive raises errors of many kinds
        logger.warning("annotations kept in %s cannot be read (%s): reading anew", path, error)
        return None


def _write_copy(path: Path, columns: AnnotationColumns, state: list[int]) -> None:
    header = {key: getattr(columns, key) for key in _HEADER}
    header["state"] = state
    arrays = {name: getattr(columns, name) for name in ARRAYS}
    try:
        with atomic_write(path) as file:
            np.savez(file, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)
    except OSError as error:
        logger.warning("annotations could not be kept in %s: %s", path, error)


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
        counts = (
            kept["counts"]
            if [kept["version"], kept["content"]] == [_COUNTS_VERSION, content]
            else []
        )
        return counts if counts and all(set(count) == _KEYS for count in counts) else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("counts kept in %s cannot be read (%s): counting again", path, error)
        return None


def _write(path: Path, content: str, counts: list[dict[str, Any]]) -> None:
    kept = {"version": _COUNTS_VERSION, "content": content, "counts": counts}
    try:
        with atomic_write(path) as file:
            file.write(json.dumps(kept).encode())
    except OSError as error:
        logger.warning("counts of images could not be kept in %s: %s", path, error)
