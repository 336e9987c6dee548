"""Results in COCO's JSON format, which ``lvis`` and ``pycocotools`` read, block by block.

The text of a whole file never exists, nor the dicts of all detections.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from os import PathLike
from typing import IO, Any, cast

import numpy as np
from detectron2.utils.file_io import PathManager

from d2_seesaw.evaluation.predictions.detections import DetectionColumns, batched
from d2_seesaw.utils.progress import Progress

_RESULTS_PER_BLOCK = 10_000
_CHARACTERS_PER_READ = 2**22


def write_results(path: str, detections: DetectionColumns, task: str | None = None) -> None:
    """Write the very bytes of ``json.dumps``.

    Args:
        path: The file, of any kind that Detectron2 can write.
        detections: What to write.
        task: As in ``DetectionColumns.results``.
    """
    work = {"total": len(detections), "unit": "detection"}
    with (
        cast("IO[str]", PathManager.open(path, "w")) as file,
        Progress(f"writing {os.path.basename(path)}", **work) as progress,
    ):
        separator = "["
        for block in batched(detections.results(task), _RESULTS_PER_BLOCK):
            file.write(separator + json.dumps(block)[1:-1])
            separator = ", "
            progress.update(len(block))
        file.write("]" if len(detections) else "[]")


def read_results(path: str | PathLike[str]) -> DetectionColumns:
    """Read a JSON list of results, or the ``.npz`` file of an evaluation.

    Raises:
        ValueError: the file holds something else, or detections that lack a field.
    """
    try:
        if str(path).endswith(".npz"):
            return load_columns(path)
        work = {"total": os.path.getsize(path), "unit": "B"}
        with (
            open(path, encoding="utf-8") as file,
            Progress(f"reading {os.path.basename(path)}", **work) as progress,
        ):
            blocks = batched(_items(file, progress), _RESULTS_PER_BLOCK)
            parts = [DetectionColumns.from_results(block) for block in blocks]
            return DetectionColumns.concatenate(parts, consume=True)
    except ValueError as error:
        raise ValueError(f"{path} is no file of results: {error}") from error


def _items(file: IO[str], progress: Progress) -> Iterator[dict[str, Any]]:
    """The dicts in a JSON list, each as soon as it is read."""
    decoder = json.JSONDecoder()
    text = _first_characters(file)
    progress.update(len(text))
    if not text.startswith("["):
        raise ValueError(f"expected a JSON list of detections, it starts with {text[:20]!r}")
    place, not_first = 1, False
    while True:
        place = _skip_spaces(text, place)
        if place < len(text) and text[place] == "]":
            return
        try:
            begin = _after_comma(text, place) if not_first else place
            item, place = decoder.raw_decode(text, begin)
        except ValueError:
            more = file.read(_CHARACTERS_PER_READ)
            if not more:
                raise
            progress.update(len(more))
            text, place = text[place:] + more, 0
            continue
        not_first = True
        yield _checked(item)


def _checked(item: Any) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise ValueError(f"expected dicts in the list, got {str(item)[:40]}")
    return item


def _first_characters(file: IO[str]) -> str:
    text = ""
    while not text and (more := file.read(_CHARACTERS_PER_READ)):
        text = more.lstrip()
    return text


def _skip_spaces(text: str, place: int) -> int:
    while place < len(text) and text[place].isspace():
        place += 1
    return place


def _after_comma(text: str, place: int) -> int:
    """The place of what follows a comma that stands at ``place``."""
    if not text.startswith(",", place):
        raise json.JSONDecodeError("Expecting ',' delimiter", text, place)
    return _skip_spaces(text, place + 1)


def save_columns(path: str, detections: DetectionColumns) -> None:
    """Write ``detections`` as the arrays of a ``.npz`` file."""
    with PathManager.open(path, "wb") as file:
        np.savez(cast("IO[bytes]", file), **cast("dict[str, Any]", detections.arrays()))


def load_columns(path: str | PathLike[str]) -> DetectionColumns:
    """The inverse of ``save_columns``. No code in the file is run."""
    with np.load(path, allow_pickle=False) as arrays:
        missing = {"image_ids", "category_ids", "scores"} - set(arrays.files)
        if missing:
            raise ValueError(f"it has no {sorted(missing)}")
        return DetectionColumns.from_arrays(dict(arrays))
