"""Images of one annotation file that must stay in one part of its split."""

import os
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from d2_seesaw.data.annotations.image_groups import match_names
from d2_seesaw.data.catalog import image_paths
from d2_seesaw.data.check.duplicates import content_keys


@dataclass(frozen=True)
class Groups:
    """Groups of images.

    Attributes:
        of_image: ``(N,)`` number of the group of each image.
        reasons: what keeps images together, one phrase with a number for each reason that occurs.
        unmatched: number of images whose name the pattern does not match.
    """

    of_image: np.ndarray
    reasons: list[str]
    unmatched: int = 0

    def text(self) -> str:
        """Return how many groups of two or more images there are, and why; "" if none."""
        sizes = np.bincount(self.of_image)
        sizes = sizes[sizes > 1]
        if not len(sizes):
            return ""
        return (
            f"{len(sizes):,} group{'s' * (len(sizes) > 1)} of two or more images, {sizes.sum():,} "
            f"images in all, stay in one part: {', '.join(self.reasons)}"
        )


def find_groups(
    images: Sequence[Mapping[str, Any]],
    image_root: str | Path,
    pattern: str | None = None,
    *,
    progress: bool = True,
) -> Groups:
    """Group the records of one file, files of equal content, and names with the same match.

    Args:
        images: entries of an annotation file, whose files exist.
        image_root: folder of the images.
        pattern: regular expression that groups names, see
            :func:`~d2_seesaw.data.annotations.image_groups.match_names`.
        progress: show progress.

    Raises:
        ValueError: see ``match_names``.
    """
    path_of = image_paths(images, image_root)
    paths = [os.path.realpath(path_of(image)) for image in images]
    content = content_keys(paths, progress=progress)
    keys = [content[path] for path in paths]
    matches: list[Hashable | None] = [None] * len(images)
    if pattern is not None:
        matches = match_names(images, pattern)
    matched = Counter(match for match in matches if match is not None)
    counts = {
        "{} by several records of a file": _repeated(paths),
        "{} by equal content of files": _repeated(content[path] for path in set(paths)),
        f"{{}} by --group-by {pattern}": sum(number > 1 for number in matched.values()),
    }
    return Groups(
        of_image=_joined([*zip(keys, matches, strict=True)]),
        reasons=[text.format(f"{number:,}") for text, number in counts.items() if number],
        unmatched=matches.count(None) if pattern is not None else 0,
    )


def _repeated(values: Iterable[str]) -> int:
    return sum(number > 1 for number in Counter(values).values())


def _joined(pairs: Sequence[tuple[str, Hashable | None]]) -> np.ndarray:
    """Return a number for each pair; pairs that share an entry, also over others, have the same."""
    first: dict[Hashable, int] = {}
    parent = list(range(len(pairs)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for i, (key, match) in enumerate(pairs):
        for entry in (("content", key), *([("match", match)] if match is not None else [])):
            parent[root(i)] = root(first.setdefault(entry, i))
    roots = [root(i) for i in range(len(pairs))]
    return np.unique(roots, return_inverse=True)[1]
