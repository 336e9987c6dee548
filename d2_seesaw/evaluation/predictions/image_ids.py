"""Detections whose image ids are not those of the annotations, brought together by file names."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any

import numpy as np

from d2_seesaw.evaluation.predictions.detections import DetectionColumns

logger = logging.getLogger(__name__)


def with_ids_of(
    detections: DetectionColumns,
    images_file: str | PathLike[str],
    annotated: Sequence[Mapping[str, Any]],
) -> DetectionColumns:
    """The same detections with the image ids of the annotations.

    Two names are of one file if they are equal, or if one ends with the other, folder by folder:
    ``"val2017/1.jpg"`` and ``"1.jpg"``, but not ``"11.jpg"``. Annotated images that are not in
    ``images_file`` are named in a warning, for all their objects count as missed.

    Args:
        detections: with ids of their own.
        images_file: JSON with "images", which says the "file_name" of each of these ids, as
            ``images.json`` of ``d2_seesaw.predict`` does.
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
            f"d2_seesaw.predict: {type(error).__name__} {error}"
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
