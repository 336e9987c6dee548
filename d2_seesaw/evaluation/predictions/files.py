"""Files of detections: COCO's results format and ``.npz``.

JSON is read and written block by block. Neither the text of a whole file nor the dicts of all
detections are in memory. ``lvis`` and ``pycocotools`` read the written files.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from os import PathLike
from typing import IO, Any, NoReturn, cast

import msgspec
import numpy as np

from d2_seesaw.data.rle import MaskColumns
from d2_seesaw.evaluation.predictions.detections import Detections
from d2_seesaw.evaluation.predictions.entries import ImageSize
from d2_seesaw.evaluation.predictions.validation import check_columns, check_encodings
from d2_seesaw.utils.files import atomic_write
from d2_seesaw.utils.progress import Progress

RESULTS = ("instances_predictions.npz", "lvis_instances_results.json")
"""Files of the detections of an evaluation, the one that is faster to read first."""

MASK_RESULTS = "lvis_instances_results_segm.json"
"""Detections of an evaluation with the scores of their masks, for other tools."""

_RESULTS_PER_BLOCK = 10_000
_CHARACTERS_PER_READ = 2**22
_SPACES: Any = re.compile(r"[ \t\n\r]*")
_COMMA: Any = re.compile(r"[ \t\n\r]*,[ \t\n\r]*")
_FIRST_CODE, _LAST_CODE = 48, 111  # of the characters of compressed counts
_LEAST_PLAIN, _FIRST_WITH_EXPONENT = 1e-4, 1e16  # floats that json writes without an exponent
_LONGEST_ENTRY = 2**26  # characters: a longer one is an error in the file


def write_results(path: str, detections: Detections, task: str | None = None) -> None:
    """Write detections as a JSON list, with the same bytes as ``json.dumps``.

    Args:
        path: Path of the file, of any kind that ``atomic_write`` can write.
        detections: Detections to write.
        task: Fields to write, see ``Detections.results``.
    """
    work = {"total": len(detections), "unit": "detection"}
    with (
        atomic_write(path) as file,
        Progress(f"writing {os.path.basename(path)}", **work) as progress,
    ):
        separator = "["
        for start in range(0, len(detections), _RESULTS_PER_BLOCK):
            rows = slice(start, start + _RESULTS_PER_BLOCK)
            file.write((separator + _json_of_rows(detections, rows, task)).encode())
            separator = ", "
            progress.update(min(_RESULTS_PER_BLOCK, len(detections) - start))
        file.write(b"]" if len(detections) else b"[]")


def _json_of_rows(detections: Detections, rows: slice, task: str | None) -> str:
    """Return the JSON of ``detections.results(task)`` for some rows, without building the dicts.

    Rows are separated by ", ".
    """
    literals, values = ["{"], []
    for key, column in detections.columns_of_results(task).items():
        literals[-1] += f'"{key}": '
        if isinstance(column, MaskColumns):
            masks = _json_of_masks(column, rows)
            values.append(masks)
            literals.append(", ")
            continue
        column = column[rows]
        entries = column[:, None] if column.ndim == 1 else column
        length = entries.shape[1]
        numbers = _json_of_numbers(entries)
        brackets = ("", "") if column.ndim == 1 else ("[", "]")
        literals[-1] += brackets[0]
        values += [numbers[i::length] for i in range(length)]
        literals += [", "] * length
        literals[-1] = brackets[1] + literals[-1]
    literals[-1] = literals[-1][: -len(", ")] + "}"
    number = len(values[0])
    # One list for all pieces of text: their concatenation is then a single pass.
    width = 2 * len(values) + 1
    pieces = [", "] * (width * number)
    for i, (literal, texts) in enumerate(zip(literals, values, strict=False)):
        pieces[2 * i :: width] = [literal] * number
        pieces[2 * i + 1 :: width] = texts
    pieces[width - 1 :: width] = [literals[-1] + ", "] * number
    pieces[-1:] = literals[-1:]
    return "".join(pieces)


def _json_of_masks(masks: MaskColumns, rows: slice) -> list[str]:
    texts = _json_of_counts(*masks.bytes_of(rows))
    # Whole numbers for sizes: many small lists at once would slow down the garbage collector.
    heights, widths = masks.sizes[rows].astype(np.int64).T
    sizes = (heights << 32 | widths).tolist()
    starts = {size: f'{{"size": [{size >> 32}, {size % 2**32}], "counts": "' for size in set(sizes)}
    return [
        f'{starts[size]}{text}"}}' if text else "[]"
        for size, text in zip(sizes, texts, strict=True)
    ]


def _json_of_counts(counts: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> list[str]:
    """Return the JSON of neighboring masks' counts without its quotation marks."""
    first, last = (int(starts[0]), int(ends[-1])) if len(starts) else (0, 0)
    block = counts[first:last]
    bounds = np.append(starts, last) - first
    if block.min(initial=_FIRST_CODE) < _FIRST_CODE or block.max(initial=0) > _LAST_CODE:
        parts = [bytes(block[a:b]).decode() for a, b in itertools.pairwise(bounds.tolist())]
        return [json.dumps(part)[1:-1] for part in parts]
    # Of the characters of counts, only this one is escaped.
    bounds += np.searchsorted(np.flatnonzero(block == ord("\\")), bounds)
    text = block.tobytes().decode().replace("\\", "\\\\")
    return [text[a:b] for a, b in itertools.pairwise(bounds.tolist())]


def _json_of_numbers(values: np.ndarray) -> list[str]:
    """Return the JSON of each value of an array of numbers or text, row by row.

    msgspec takes a tenth of the time of ``json``, and writes the same digits. It differs in
    exponents and in numbers that are not finite.
    """
    if values.dtype.kind not in "iuf":
        return [json.dumps(text) for text in values.ravel().tolist()]
    if not values.size:
        return []
    flat = values.ravel()
    texts = msgspec.json.encode(flat.tolist()).decode()[1:-1].split(",")
    if flat.dtype.kind == "f":
        size = np.abs(flat)
        plain = (size == 0) | ((size >= _LEAST_PLAIN) & (size < _FIRST_WITH_EXPONENT))
        for i in np.flatnonzero(~plain).tolist():
            texts[i] = json.dumps(flat[i].item())
    return texts


def read_results(path: str | PathLike[str], *, image_size: ImageSize | None = None) -> Detections:
    """Read detections from a JSON list of results or from the ``.npz`` file of an evaluation.

    Args:
        path: The file.
        image_size: Height and width of an image by its id, for masks that are polygons.

    Raises:
        ValueError: the file has another format, or its detections lack a field.
    """
    try:
        if str(path).endswith(".npz"):
            return load_columns(path)
        return _read_json(path, image_size)
    except RecursionError as error:
        raise ValueError(f"{path} is not a file of results: it is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"{path} is not a file of results: {error}") from error


def _read_json(path: str | PathLike[str], image_size: ImageSize | None) -> Detections:
    work = {"total": os.path.getsize(path), "unit": "B"}
    with (
        open(path, encoding=_encoding_of(path)) as file,
        Progress(f"reading {os.path.basename(path)}", **work) as progress,
    ):
        parts: list[Detections] = []
        first = 0
        for block in _batched(_items(file, progress), _RESULTS_PER_BLOCK):
            parts.append(Detections.from_results(block, first=first, image_size=image_size))
            first += len(block)
        for name in ("image_ids", "category_ids"):
            if len({getattr(part, name).dtype.kind == "U" for part in parts}) > 1:
                raise ValueError(f"some {name.replace('_', ' ')} are numbers, others are text")
        return Detections.concatenate(parts, consume=True)


def _encoding_of(path: str | PathLike[str]) -> str:
    with open(path, "rb") as file:
        start = file.read(4)
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or (start[:1] and 0 in start):
        raise ValueError("it is UTF-16 or UTF-32, or binary: save it as UTF-8")
    return "utf-8-sig"  # without a byte order mark, this is UTF-8


def _batched(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while block := list(itertools.islice(items, size)):
        yield block


def _items(file: IO[str], progress: Progress) -> Iterator[dict[str, Any]]:
    """Yield the dicts of a JSON list, each as soon as it is read."""
    decoder: Any = json.JSONDecoder()  # the type stubs lack scan_once, the C scanner
    scan = decoder.scan_once
    text = _first_characters(file)
    progress.update(len(text))
    if not text.startswith("["):
        hint = " (annotations are another file than results)" if text.startswith("{") else ""
        raise ValueError(f"expected a JSON list of detections, it starts with {text[:20]!r}{hint}")
    place, between = 1, _SPACES
    while True:
        try:
            begin = between.match(text, place).end()
            item, place = scan(text, begin)
        except (AttributeError, StopIteration, ValueError):  # no comma, no value, or half of one
            end = _SPACES.match(text, place).end()
            if text[end : end + 1] == "]":
                _check_end(text[end + 1 :] + file.read(_CHARACTERS_PER_READ))
                return
            more = file.read(_CHARACTERS_PER_READ) if len(text) - place < _LONGEST_ENTRY else ""
            if not more:
                _raise_error(decoder, text, place, between)
            progress.update(len(more))
            text, place = text[place:] + more, 0
            continue
        between = _COMMA
        if not isinstance(item, dict):
            raise ValueError(f"expected dicts in the list, got {str(item)[:40]}")
        yield item


def _raise_error(
    decoder: json.JSONDecoder, text: str, place: int, between: re.Pattern[str]
) -> NoReturn:
    found = between.match(text, place)
    if found is None:
        raise json.JSONDecodeError("Expecting ',' delimiter", text, place)
    decoder.raw_decode(text, found.end())
    raise json.JSONDecodeError("Expecting value", text, place)


def _check_end(rest: str) -> None:
    if rest.strip():
        raise ValueError(f"the list ends, but the file goes on with {rest.strip()[:20]!r}")


def _first_characters(file: IO[str]) -> str:
    text = ""
    while not text and (more := file.read(_CHARACTERS_PER_READ)):
        text = more.lstrip()
    return text


def save_columns(path: str, detections: Detections) -> None:
    """Write detections as the arrays of a ``.npz`` file."""
    with atomic_write(path) as file:
        np.savez(file, **cast("dict[str, Any]", detections.arrays()))


def load_columns(path: str | PathLike[str]) -> Detections:
    """Read the file of ``save_columns``. Code in the file is never executed.

    Raises:
        ValueError: the file is damaged or lacks an array, or the arrays do not fit each other.
    """
    with open(path, "rb") as file:
        if not zipfile.is_zipfile(file):  # NumPy would advise to unpickle it
            raise ValueError("it is damaged or not an .npz file")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = dict(archive)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, OSError, TypeError) as error:
        raise ValueError(f"it is damaged: {error}") from error
    missing = {"image_ids", "category_ids", "scores"} - arrays.keys()
    if "masks_counts" in arrays:
        missing |= {"masks_sizes", "masks_lengths"} - arrays.keys()
    if missing:
        raise ValueError(f"it has no {sorted(missing)}")
    detections = Detections.from_arrays(arrays)
    check_columns(detections)
    check_encodings(detections)
    return detections
