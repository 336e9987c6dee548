"""Groups of images that belong together, such as the frames of a video, by their file names."""

import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np


def name_of(image: Mapping[str, Any]) -> str:
    """Return the name of an image in its annotation file: ``file_name``, or else ``coco_url``."""
    return str(image.get("file_name") or image.get("coco_url") or "")


def match_names(images: Sequence[Mapping[str, Any]], pattern: str) -> list[Hashable | None]:
    """Search the names of images for a regular expression.

    Args:
        images: ``I`` entries of an annotation file.
        pattern: the expression, searched for in the whole name. ``^[^/]+`` finds the first folder.

    Returns:
        For each image, the texts in the parentheses of the expression if it has some, or else all
        that it matches; None where it finds nothing.

    Raises:
        ValueError: the expression is not valid, or finds nothing in any name.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"--group-by {pattern!r} is not a regular expression: {error}. Expected one such as "
            "'^[^/]+', which groups images by their first folder"
        ) from None
    matches = [expression.search(name_of(image)) for image in images]
    if images and not any(matches):
        raise ValueError(
            f"--group-by {pattern!r} finds nothing in the file names of {len(images):,} images, "
            f"such as {name_of(images[0])!r}"
        )
    return [match and (match.groups() or match[0]) for match in matches]


def group_images(images: Sequence[Mapping[str, Any]], pattern: str) -> np.ndarray:
    """Group images in whose names a regular expression finds the same text.

    An image in which it finds nothing is a group of its own.

    Args:
        images: ``I`` entries of an annotation file.
        pattern: the expression, see :func:`match_names`.

    Returns:
        ``(I,)`` int64 index of the group of each image, in order of appearance.

    Raises:
        ValueError: see :func:`match_names`.
    """
    found = match_names(images, pattern)
    keys = [(index,) if match is None else ("match", match) for index, match in enumerate(found)]
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
