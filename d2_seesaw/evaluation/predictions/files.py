"""Results in COCO's JSON format, which ``lvis`` and ``pycocotools`` read, block by block.

The text of a whole file never exists, nor the dicts of all detections. Detections whose image ids
are not those of the annotations are brought together by file names.
"""

from __future__ import annotations

import json
import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import IO, Any, cast

import numpy as np
from detectron2.utils.file_io import PathManager

from d2_seesaw.evaluation.predictions.detections import Detections, batched
from d2_seesaw.utils.progress import Progress

_RESULTS_PER_BLOCK = 10_000
_CHARACTERS_PER_READ = 2**22

logger = logging.getLogger(__name__)


def write_results(path: str, detections: Detections, task: str | None = None) -> None:
    """Write the very bytes of ``json.dumps``.

    Args:
        path: The file, of any kind that Detectron2 can write.
        detections: What to write.
        task: As in ``Detections.results``.
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


def read_results(path: str | PathLike[str]) -> Detections:
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
            parts = [Detections.from_results(block) for block in blocks]
            return Detections.concatenate(parts, consume=True)
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


def save_columns(path: str, detections: Detections) -> None:
    """Write ``detections`` as the arrays of a ``.npz`` file."""
    with PathManager.open(path, "wb") as file:
        np.savez(cast("IO[bytes]", file), **cast("dict[str, Any]", detections.arrays()))


def load_columns(path: str | PathLike[str]) -> Detections:
    """The inverse of ``save_columns``. No code in the file is run."""
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
    """The same detections with the image ids of the annotations.

    Two names are of one file if they are equal, or if one ends with the other, folder by folder:
    ``"val2017/1.jpg"`` and ``"1.jpg"``, but not ``"11.jpg"``. Annotated images that are not in
    ``images_file`` are named in a warning, for all their objects count as missed.

    Args:
        detections: with ids of their own.
        images_file: JSON with "images", which says the "file_name" of each of these ids, as
            ``images.json`` of ``d2-seesaw predict`` does.
        annotated: "images" of the annotations, with "file_name" or "coco_url".

    Raises:
        ValueError: ``images_file`` is of another kind or lacks an id, or an image with detections
            has no counterpart, several, or one that another image has, too.
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
            f"image {missed[0]['id']!r}: what they show counts as missed"
        )
    if not len(detections):
        return detections
    ids = np.array([found[own] for own in new_ids.tolist()])  # of any type
    return replace(detections, image_ids=ids[places.reshape(-1)])


def _names(images_file: str | PathLike[str]) -> dict[Any, str]:
    try:
        with open(images_file, encoding="utf-8") as file:
            return {i["id"]: i["file_name"].replace("\\", "/") for i in json.load(file)["images"]}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{images_file} must hold 'images' with 'id' and 'file_name', as images.json of "
            f"d2-seesaw predict: {type(error).__name__} {error}"
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
        what = f"{len(ids)} images are" if ids else "no image is"
        raise ValueError(f"{name!r} has detections, but {what} called so in the annotations")
    return ids[0]


def _check_distinct(found: Mapping[Any, Any], names: Mapping[Any, str]) -> None:
    first: dict[Any, Any] = {}
    for own, id_ in found.items():
        if first.setdefault(id_, own) != own:
            raise ValueError(
                f"{names[first[id_]]!r} and {names[own]!r} would both be the annotated image "
                f"{id_!r}; frames of a video cannot be scored by the name of the file"
            )
