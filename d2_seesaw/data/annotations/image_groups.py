"""Groups of images that belong together, such as the frames of a video, by their file names."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def group_images(images: Sequence[Mapping[str, Any]], pattern: str) -> np.ndarray:
    """Group images by what a regular expression finds in their file names.

    Images in which it finds the same text belong together: that of its first group if it has one,
    or else all that it matches. An image in which it finds nothing is a group of its own.

    Args:
        images: ``I`` images with a "file_name" or a "coco_url".
        pattern: The expression, searched for in the whole name. ``^[^/]+`` names the first folder.

    Returns:
        ``(I,)`` int64 index of the group of each image, in order of appearance.

    Raises:
        ValueError: the expression is not valid, or finds nothing in any image.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"{pattern!r} is not a regular expression: {error}. Expected one such as '^[^/]+', "
            "which groups images by their first folder"
        ) from None
    names = [image.get("file_name") or image.get("coco_url") or "" for image in images]
    matches = [expression.search(name) for name in names]
    if images and not any(matches):
        raise ValueError(
            f"the regular expression {pattern!r} finds nothing in the file names of "
            f"{len(names):,} images, such as {names[0]!r}"
        )
    keys = (
        index if match is None else match.group(1 if expression.groups else 0)
        for index, match in enumerate(matches)
    )
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
