"""Files of detections: COCO's results format and ``.npz``, and image ids matched by file name.

JSON is read and written block by block. Neither the text of a whole file nor the dicts of all
detections are in memory. ``lvis`` and ``pycocotools`` read the written files.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import IO, Any, cast

import numpy as np

from d2_seesaw.evaluation.predictions.detections import Detections
from d2_seesaw.utils.files import atomic_write
from d2_seesaw.utils.progress import Progress

_RESULTS_PER_BLOCK = 10_000
_CHARACTERS_PER_READ = 2**22

logger = logging.getLogger(__name__)


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
        for block in _batched(detections.results(task), _RESULTS_PER_BLOCK):
            file.write((separator + json.dumps(block)[1:-1]).encode())
            separator = ", "
            progress.update(len(block))
        file.write(b"]" if len(detections) else b"[]")


def read_results(path: str | PathLike[str]) -> Detections:
    """Read detections from a JSON list of results or from the ``.npz`` file of an evaluation.

    Raises:
        ValueError: the file has another format, or its detections lack a field.
    """
    try:
        return load_columns(path) if str(path).endswith(".npz") else _read_json(path)
    except ValueError as error:
        raise ValueError(f"{path} is not a file of results: {error}") from error


def _read_json(path: str | PathLike[str]) -> Detections:
    work = {"total": os.path.getsize(path), "unit": "B"}
    with (
        open(path, encoding="utf-8") as file,
        Progress(f"reading {os.path.basename(path)}", **work) as progress,
    ):
        blocks = _batched(_items(file, progress), _RESULTS_PER_BLOCK)
        parts = [Detections.from_results(block) for block in blocks]
        return Detections.concatenate(parts, consume=True)


def _batched(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while block := list(itertools.islice(items, size)):
        yield block


def _items(file: IO[str], progress: Progress) -> Iterator[dict[str, Any]]:
    """Yield the dicts of a JSON list, each as soon as it is read."""
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
        if not isinstance(item, dict):
            raise ValueError(f"expected dicts in the list, got {str(item)[:40]}")
        yield item


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
    if not text.startswith(",", place):
        raise json.JSONDecodeError("Expecting ',' delimiter", text, place)
    return _skip_spaces(text, place + 1)


def save_columns(path: str, detections: Detections) -> None:
    """Write detections as the arrays of a ``.npz`` file."""
    with atomic_write(path) as file:
        np.savez(file, **cast("dict[str, Any]", detections.arrays()))


def load_columns(path: str | PathLike[str]) -> Detections:
    """Read the file of ``save_columns``. Code in the file is never executed."""
    with np.load(path, allow_pickle=False) as arrays:
        missing = {"image_ids", "category_ids", "scores"} - set(arrays.files)
        if missing:
            raise ValueError(f"it has no {sorted(missing)}")
        return Detections.from_arrays(dict(arrays))


def with_ids_of(
    detections: Detections,
    images_file: str | PathLike[str],
    annotated: Sequence[Mapping[str, Any]],
) -> Detections:
    """Replace image ids by those of the annotations, matching images by file name.

    Two names match if they are equal, or if one ends with the other, folder by folder:
    ``"val2017/1.jpg"`` and ``"1.jpg"``, but not ``"11.jpg"``. A warning counts the annotated images
    that are not in ``images_file``, because all their objects count as missed.

    Args:
        detections: Detections with other image ids.
        images_file: JSON file with "images", which gives the "file_name" of each of these ids, such
            as the ``images.json`` of prediction.
        annotated: "images" of the annotations, with "file_name" or "coco_url".

    Raises:
        ValueError: ``images_file`` has another format or lacks an id, or an image with detections
            has no match, several matches, or the match of another image.
    """
    names = _names(images_file)
    by_end: dict[str, list[tuple[str, Any]]] = defaultdict(list)
    for image in annotated:
        name = image.get("file_name") or image.get("coco_url") or ""
        by_end[name.rsplit("/", 1)[-1]].append((name, image["id"]))
    found: dict[Any, Any] = {}
    new_ids, places = np.unique(detections.image_ids, return_inverse=True)
    for own in new_ids.tolist():
        if own not in names:
            raise ValueError(f"{images_file} has no image {own!r}, which has detections")
        found[own] = _counterpart(names[own], by_end)
    _check_distinct(found, names)
    pictures = {id_ for name in names.values() for id_ in _candidates(name, by_end)}
    missed = [image for image in annotated if image["id"] not in pictures]
    if missed:
        logger.warning(
            f"{len(missed)} of {len(annotated)} annotated images are not in {images_file}, such as "
            f"image {missed[0]['id']!r}: their objects count as missed"
        )
    if not len(detections):
        return detections
    ids = np.array([found[own] for own in new_ids.tolist()])  # numbers or text
    return replace(detections, image_ids=ids[places.reshape(-1)])


def _names(images_file: str | PathLike[str]) -> dict[Any, str]:
    try:
        with open(images_file, encoding="utf-8") as file:
            return {i["id"]: i["file_name"].replace("\\", "/") for i in json.load(file)["images"]}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{images_file} must contain 'images' with 'id' and 'file_name', like the images.json "
            f"of prediction: {type(error).__name__} {error}"
        ) from error


def _candidates(name: str, by_end: Mapping[str, Iterable[tuple[str, Any]]]) -> list[Any]:
    same_end = list(by_end.get(name.rsplit("/", 1)[-1], ()))
    equal = [id_ for other, id_ in same_end if other == name]
    return equal or [
        id_
        for other, id_ in same_end
        if f"/{other}".endswith(f"/{name}") or f"/{name}".endswith(f"/{other}")
    ]


def _counterpart(name: str, by_end: Mapping[str, Iterable[tuple[str, Any]]]) -> Any:
    ids = _candidates(name, by_end)
    if len(ids) != 1:
        matching = f"{len(ids)} images match" if ids else "no image matches"
        raise ValueError(f"{name!r} has detections, but {matching} its name in the annotations")
    return ids[0]


def _check_distinct(found: Mapping[Any, Any], names: Mapping[Any, str]) -> None:
    first: dict[Any, Any] = {}
    for own, id_ in found.items():
        if first.setdefault(id_, own) != own:
            raise ValueError(
                f"{names[first[id_]]!r} and {names[own]!r} both match the annotated image {id_!r}; "
                "frames of a video cannot be matched by file name"
            )
