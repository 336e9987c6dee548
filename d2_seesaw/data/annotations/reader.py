"""Annotation files: parsed once, and read from a kept copy after that.

The copy is a row of arrays in NumPy's format, which is read without executing anything. It belongs
to one state of the file, its size and time of modification, is written in one step, and has a
checksum of each array.
The number of images of each category is kept beside it. It belongs to the content of the file, so
copies of the file share it.
"""

import functools
import hashlib
import json
import logging
import os
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import time_ns
from typing import Any, BinaryIO

import msgspec
import numpy as np

from d2_seesaw.data.annotations.box_formats import FILE_FORMAT, box_format
from d2_seesaw.data.annotations.coco import ParsedFile, parse_file
from d2_seesaw.data.annotations.rules import RULES, WARNING
from d2_seesaw.data.annotations.schema import Problem
from d2_seesaw.data.annotations.table import ARRAYS, AnnotationTable
from d2_seesaw.utils.files import atomic_write, default_cache_folder, digest, file_state

logger = logging.getLogger(__name__)

CACHE_SWITCH = "D2_SEESAW_ANNOTATION_CACHE"
"""Environment variable; ``0`` parses annotation files on every start and keeps nothing."""

_LEAST_BYTES_KEPT = 1 << 24  # a smaller file is parsed in less than a second
_VERSION = 5
_LEAST_AGE_REMEMBERED = 2 * 10**9  # nanoseconds
_SHOWN = 5
_END = b"end of the kept annotations"
_SECTIONS = ("about", "images", *ARRAYS)  # arrays of a copy; the first two are JSON

_COUNTS_VERSION = 3
_CHUNK = 1 << 20
_KEYS = {"id", "name", "image_count"}


def read_annotations(json_file: str | Path, *, for_training: bool = False) -> AnnotationTable:
    """Read annotations in COCO or LVIS format. Every file that is used is read here.

    Files of 16 MiB and more are kept as arrays in ``~/.cache/d2_seesaw`` (below
    ``$XDG_CACHE_HOME`` where that is set), unless ``D2_SEESAW_ANNOTATION_CACHE=0``. Only files
    without errors are kept. Each rule of severity "warning" that the file breaks is logged.

    Args:
        json_file: the file.
        for_training: also refuse files with nothing to train on.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not valid JSON, or breaks a rule of severity "error" in
            ``d2_seesaw.data.annotations.rules``.
    """
    kept = _kept_copy(json_file)
    state = _state(json_file)
    found = None if kept is None else _read_copy(kept, state)
    if found is None:
        found = _parse(json_file, kept, state, for_training)
    table, warnings = found
    for warning in warnings:
        logger.warning("%s: %s", json_file, warning)
    return table


def _parse(
    json_file: str | Path, kept: Path | None, state: list[int], for_training: bool
) -> tuple[AnnotationTable, list[str]]:
    """Return the table and the warnings of a file without errors, and keep them."""
    start = time.monotonic()
    parsed = _parsed(json_file, kept, state)
    seconds = time.monotonic() - start
    if seconds > 1:
        logger.info("%s took %.1f s to read", json_file, seconds)
    errors = [p for p in parsed.problems if p.is_error]
    fatal = [p for p in errors if for_training or not RULES[p.kind].training_only]
    if fatal:
        raise ValueError(f"{json_file} cannot be used: {summary(fatal)}")
    warnings = _warnings(parsed.problems)
    if other := box_format(parsed.table):
        warnings.append(
            f"the boxes look like {other.name}, and are read as {FILE_FORMAT}: {other.reason}. "
            "d2-seesaw check says more"
        )
    if kept is not None and not errors:
        _write_copy(kept, parsed.table, warnings, state)  # of before: a change is noticed
    return parsed.table, warnings


def _parsed(json_file: str | Path, kept: Path | None, state: list[int]) -> ParsedFile:
    """Parse a file, or return what was parsed before from the same state of a small file.

    A training reads each file several times. A file that has just been written is parsed each time,
    because one that is written again within a tick of the clock may have the same state.
    """
    age = time_ns() - state[-1]
    if kept is not None or os.getenv(CACHE_SWITCH) == "0" or not age > _LEAST_AGE_REMEMBERED:
        return parse_file(json_file)
    parsed = _remembered(os.path.abspath(json_file), *state)
    # The caller may change the dicts.
    sections = {
        key: list(map(dict, getattr(parsed.table, key))) for key in ("images", "categories")
    }
    return replace(parsed, table=replace(parsed.table, **sections))


@functools.lru_cache(maxsize=4)
def _remembered(path: str, *_: str | int) -> ParsedFile:
    """Parse a file in one working directory and state. Its arrays cannot be written."""
    parsed = parse_file(path)
    for name in ARRAYS:
        getattr(parsed.table, name).flags.writeable = False
    return parsed


def _warnings(problems: Sequence[Problem]) -> list[str]:
    """Return a line for each rule of severity "warning": the number, an example, the treatment."""
    examples: dict[str, Problem] = {}
    numbers = Counter(problem.kind for problem in problems)
    for problem in problems:
        examples.setdefault(problem.kind, problem)
    return [
        f"{numbers[kind]:,} x {rule.description} ({kind}), for example {examples[kind]}. "
        f"Treatment: {rule.fix}"
        for kind, rule in RULES.items()
        if numbers[kind] and rule.severity == WARNING
    ]


def summary(problems: Sequence[Problem]) -> str:
    """Return the number of problems, the first five, and the command that lists all."""
    shown = "; ".join(map(str, problems[:_SHOWN])) + ("; ..." if problems[_SHOWN:] else "")
    number = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return (
        f"{number}: {shown}. To list all problems of a dataset: d2-seesaw check ANNOTATIONS IMAGES"
    )


def read_categories(json_file: str | Path) -> list[dict[str, Any]]:
    """Read the ``categories`` of :func:`read_annotations`, quickly where a copy is kept.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_annotations`.
    """
    kept = _kept_copy(json_file)
    if kept is not None:
        try:
            with open(kept, "rb") as file:
                if (checksums := _checksums(file, _state(json_file))) is not None:
                    return _json(_array(file, checksums["about"]))["categories"]
        except Exception as error:  # reading the annotations says more, and mends it
            logger.debug("categories kept in %s cannot be read (%s)", kept, error)
    return read_annotations(json_file).categories


def _kept_copy(json_file: str | Path) -> Path | None:
    """Return the path of the kept copy, None if this file is not kept."""
    if os.getenv(CACHE_SWITCH) == "0" or file_state(json_file)[0] < _LEAST_BYTES_KEPT:
        return None
    return default_cache_folder() / f"annotations_{digest(os.path.abspath(json_file))}.npy"


def _state(json_file: str | Path) -> list[int]:
    return [_VERSION, *file_state(json_file)]


def _checksums(file: BinaryIO, state: list[int]) -> dict[str, int] | None:
    """Return the checksums of the arrays that follow, if they are of this state of the file.

    Raises:
        ValueError: the copy is cut off.
    """
    file.seek(-len(_END), os.SEEK_END)
    if file.read() != _END:
        raise ValueError("it is cut off")
    file.seek(0)
    kept = _json(np.load(file, allow_pickle=False))
    return kept["checksums"] if kept["state"] == state else None


def _json(array: np.ndarray) -> Any:
    try:
        return msgspec.json.decode(array.data)
    except msgspec.MsgspecError:  # no strict JSON, such as NaN
        return json.loads(array.tobytes())


def _array(file: BinaryIO, checksum: int) -> np.ndarray:
    """Read the next array.

    Raises:
        ValueError: its checksum is another one.
    """
    array = np.load(file, allow_pickle=False)
    if _checksum(array) != checksum:
        raise ValueError("an array has another checksum")
    return array


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).data.cast("B") if array.size else b"")


def _read_copy(path: Path, state: list[int]) -> tuple[AnnotationTable, list[str]] | None:
    """Return the table and the warnings kept for this state of the file, if they are."""
    try:
        with open(path, "rb") as file:
            if (checksums := _checksums(file, state)) is None:
                return None
            about, images, *arrays = (_array(file, checksums[name]) for name in _SECTIONS)
        about = _json(about)
        columns = dict(zip(ARRAYS, arrays, strict=True))
        table = AnnotationTable(images=_json(images), categories=about["categories"], **columns)
        return table, list(map(str, about["warnings"]))
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged file raises errors of many kinds
        logger.warning("annotations kept in %s cannot be read (%s): reading anew", path, error)
        return None


def _write_copy(path: Path, table: AnnotationTable, warnings: list[str], state: list[int]) -> None:
    about = {"categories": table.categories, "warnings": warnings}
    contents = [_bytes(about), _bytes(table.images), *(getattr(table, name) for name in ARRAYS)]
    checksums = dict(zip(_SECTIONS, map(_checksum, contents), strict=True))
    try:
        with atomic_write(path) as file:
            for array in (_bytes({"state": state, "checksums": checksums}), *contents):
                np.save(file, array, allow_pickle=False)
            file.write(_END)
    except OSError as error:
        logger.warning("annotations could not be kept in %s: %s", path, error)


def _bytes(content: Any) -> np.ndarray:
    return np.frombuffer(json.dumps(content).encode(), np.uint8)


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
        table = read_annotations(json_file)
        counts = [
            {"id": category["id"], "name": category["name"], "image_count": count}
            for category, count in zip(table.categories, table.image_counts().tolist(), strict=True)
        ]
        _write(path, content, counts)
    return counts


def content_hash(path: str | Path) -> str:
    """Return the SHA-256 of a file; computed again in this process only if the file changes.

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
