"""Results of ``d2-seesaw predict``, which have ids of their own, against an annotation file.

Images are matched by file name, categories by name.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from os import PathLike
from typing import Any

import numpy as np

from d2_seesaw.data.annotations.reader import read_annotations
from d2_seesaw.data.class_names import compare_names
from d2_seesaw.evaluation.predictions.detections import Detections

logger = logging.getLogger(__name__)


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


def with_categories_of(
    detections: Detections,
    images_file: str | PathLike[str],
    annotated: Sequence[Mapping[str, Any]],
) -> Detections:
    """Replace category ids by those of the annotations, matching categories by name.

    Detections of categories that the annotations lack are dropped, and a warning counts them.

    Args:
        detections: Detections with the category ids of the model.
        images_file: JSON file with the "categories" of the model, such as the ``images.json`` of
            prediction. Without them, nothing is changed.
        annotated: "categories" of the annotations, with "id" and "name".

    Raises:
        ValueError: the annotations have categories that the model lacks, or a detection has an
            unknown category.
    """
    targets = category_targets(images_file, annotated) if len(detections) else None
    if targets is None:
        return detections
    used, places = np.unique(detections.category_ids, return_inverse=True)
    strangers = [i for i in used.tolist() if i not in targets]
    if strangers:
        raise ValueError(f"{images_file} has no category {strangers[0]!r}, which has detections")
    places, found = places.reshape(-1), [targets[i] for i in used.tolist()]
    kept = np.flatnonzero(np.array([target is not None for target in found])[places])
    if len(kept) < len(places):
        logger.warning(
            f"{len(places) - len(kept)} of {len(places)} detections are of categories that the "
            "annotations lack: they are dropped"
        )
    ids = np.array([annotated[target or 0]["id"] for target in found])
    return replace(detections.take(kept), category_ids=ids[places[kept]])


def category_targets(
    images_file: str | PathLike[str], annotated: Sequence[Mapping[str, Any]]
) -> dict[Any, int | None] | None:
    """Return the position in ``annotated`` of each category of the model, matched by name.

    Args:
        images_file: JSON file with the "categories" of the model, such as the ``images.json`` of
            prediction.
        annotated: "categories" of the annotations, with "id" and "name".

    Returns:
        The position by the id of the model, None for a category that the annotations lack; or None
        if one of both has no names, so that the ids are those of the annotations.

    Raises:
        ValueError: the annotations have categories that the model lacks, or ``images_file`` has
            another format.
    """
    try:
        own = {c["id"]: str(c["name"]) for c in read_images(images_file).get("categories") or []}
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"'categories' of {images_file} must be a list with 'id' and 'name': {error!r}"
        ) from error
    has_names = any(category["name"] != str(category["id"]) for category in annotated)
    if not own or not has_names:
        return None
    mapping = compare_names(
        list(own.values()),
        [category["name"] for category in annotated],
        source=f"the model ({images_file})",
        target="the annotation file",
    )
    mapping.log()
    return dict(zip(own, mapping.targets, strict=True))


def read_images(images_file: str | PathLike[str]) -> dict[str, Any]:
    """Read ``images.json`` of prediction.

    Raises:
        ValueError: the file does not have "images" with "id" and "file_name".
    """
    try:
        with open(images_file, encoding="utf-8-sig") as file:
            content = json.load(file)
        named = {image["id"]: image["file_name"] for image in content["images"]}
        if not all(isinstance(name, str) for name in named.values()):
            raise TypeError("a 'file_name' is not text")
        return content
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{images_file} must contain 'images' with 'id' and 'file_name', like the images.json "
            f"of prediction: {type(error).__name__} {error}"
        ) from error


def image_sizes(
    read: Callable[[], Iterable[Mapping[str, Any]]],
) -> Callable[[Any], Sequence[int]]:
    """Return a function from an image id of results to height and width.

    Args:
        read: Returns "images" with "id", "height" and "width". It is called with the first id.
    """

    @cache
    def sizes() -> dict[Any, tuple[int, int]]:
        return {
            i["id"]: (i["height"], i["width"]) for i in read() if "height" in i and "width" in i
        }

    def size_of(image_id: Any) -> tuple[int, int]:
        if not isinstance(image_id, (int, float, str)) or image_id not in sizes():
            raise ValueError(
                f"the size of image {image_id!r} is needed for polygons, but not known"
            )
        return sizes()[image_id]

    return size_of


def annotated_sizes(annotations: str | PathLike[str]) -> Callable[[Any], Sequence[int]]:
    """Return a function from an image id of an annotation file to height and width."""
    return image_sizes(lambda: read_annotations(str(annotations)).images)


def _names(images_file: str | PathLike[str]) -> dict[Any, str]:
    images = read_images(images_file)["images"]
    return {i["id"]: i["file_name"].replace("\\", "/") for i in images}


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
