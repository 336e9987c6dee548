"""Selection of the images, objects and detections to show."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from d2_seesaw.evaluation.analysis.error_kinds import ERRORS
from d2_seesaw.evaluation.analysis.judging import Entry, JudgedDataset
from d2_seesaw.utils.text import did_you_mean

ORDERS = ("id", "errors", "score", "random")


class ShownDetections(NamedTuple):
    """Detections of an image to show, the highest scores first.

    Attributes:
        selected: Those that pass the filters, up to the limit.
        others: The best of the rest, as far as the limit has room for them.
        passing: Number that passes the filters.
        found: Number of all.
    """

    selected: list[Entry]
    others: list[Entry]
    passing: int
    found: int


@dataclass(frozen=True)
class Selection:
    """Objects and detections to show; each field that is None selects all.

    Attributes:
        categories: Indices of categories.
        kinds: Kinds of ``error_kinds.KINDS``.
        min_score: Lowest score of a detection. Without lower ones, more objects are missed.
        images: Indices of images.
    """

    categories: Collection[int] | None = None
    kinds: Collection[str] | None = None
    min_score: float = 0.0
    images: Collection[int] | None = None

    @property
    def selects_entries(self) -> bool:
        """Whether some objects or detections are left out for their category or kind."""
        return self.categories is not None or self.kinds is not None

    def includes(self, entry: Entry, *, is_object: bool) -> bool:
        """Return whether an object or detection is selected."""
        if not is_object and entry.score is not None and entry.score < self.min_score:
            return False
        if self.categories is not None and entry.category not in self.categories:
            return False
        kind = entry.kind_at(self.min_score, is_object=is_object)
        return self.kinds is None or kind in self.kinds

    def entries(self, dataset: JudgedDataset, image: int) -> Iterator[tuple[Entry, bool]]:
        """Yield the selected entries of an image, and whether each is an object."""
        for is_object, entries in (
            (True, dataset.objects(image)),
            (False, dataset.found(image, self.min_score)),
        ):
            for entry in entries:
                if self.includes(entry, is_object=is_object):
                    yield entry, is_object

    def detections(
        self, dataset: JudgedDataset, image: int, limit: int, lowest: float | None = None
    ) -> ShownDetections:
        """Return the detections of an image to show: filtered first, then limited.

        Args:
            dataset: The annotations and detections.
            image: Index of the image.
            limit: Largest number of detections.
            lowest: Lowest score of the others; by default ``min_score``.
        """
        found = dataset.found(image, self.min_score if lowest is None else lowest)
        parts: tuple[list[Entry], list[Entry]] = ([], [])
        for entry in found:
            parts[not self.includes(entry, is_object=False)].append(entry)
        passing, rest = parts
        selected = passing[:limit]
        return ShownDetections(selected, rest[: limit - len(selected)], len(passing), len(found))


def order_images(
    dataset: JudgedDataset, selection: Selection, order: str = "id", seed: int = 0
) -> list[int]:
    """Return the indices of the images to show, in order.

    Unless all objects and detections are selected, images without a selected one are left out.

    Args:
        dataset: The annotations and detections.
        selection: What to show.
        order: "id": by image id. "errors": by the number of selected errors, most first.
            "score": by the highest score of a selected detection, highest first. "random".
        seed: Seed of the random order.
    """
    if order not in ORDERS:
        raise ValueError(f"order must be among {ORDERS}, got {order!r}")
    every: Sequence[int] = range(len(dataset.table.images))
    images = sorted(every if selection.images is None else selection.images)
    if order == "random":
        random.Random(seed).shuffle(images)
    if order in ("id", "random") and not selection.selects_entries:
        return images
    keys: dict[int, float] = {}
    for image in images:
        selected = list(selection.entries(dataset, image))
        if selected or not selection.selects_entries:
            keys[image] = _KEYS[order](selected, selection)
    return sorted(keys, key=lambda image: -keys[image])


def _errors(selected: list[tuple[Entry, bool]], selection: Selection) -> float:
    kinds = [entry.kind_at(selection.min_score, is_object=o) for entry, o in selected]
    return sum(kind in ERRORS for kind in kinds)


def _highest_score(selected: list[tuple[Entry, bool]], selection: Selection) -> float:
    return max((entry.score or 0.0 for entry, is_object in selected if not is_object), default=-1.0)


def _equal(selected: list[tuple[Entry, bool]], selection: Selection) -> float:
    return 0.0


_KEYS: dict[str, Callable[[list[tuple[Entry, bool]], Selection], float]]
_KEYS = {"id": _equal, "random": _equal, "errors": _errors, "score": _highest_score}


def categories_named(
    dataset: JudgedDataset, names: Sequence[str] | None, groups: Sequence[str] | None
) -> set[int] | None:
    """Return the indices of the categories with these names and in these groups, None for all.

    Raises:
        ValueError: an unknown name, or a group without a category.
    """
    if names is None and groups is None:
        return None
    unknown = [name for name in names or () if name not in dataset.names]
    if unknown:
        raise ValueError(
            f"no class is named {unknown[0]!r}{did_you_mean(unknown[0], dataset.names) or '.'}"
        )
    absent = [group for group in groups or () if group not in dataset.groups]
    if absent:
        raise ValueError(
            f"no class is in group {absent[0]!r}, but in {sorted(set(dataset.groups))}; groups "
            "come from the annotations or from --train-annotations"
        )
    return {
        index
        for index, (name, group) in enumerate(zip(dataset.names, dataset.groups, strict=True))
        if (names is None or name in names) and (groups is None or group in groups)
    }


def images_named(
    dataset: JudgedDataset, ids: Sequence[str] | None, files: Sequence[str] | None
) -> set[int] | None:
    """Return the indices of the images with these ids or files, None for all.

    Args:
        dataset: The annotations.
        ids: Image ids as text.
        files: Ends of file names, folder by folder, such as ``"1.jpg"`` or ``"val/1.jpg"``.

    Raises:
        ValueError: an image that the annotations do not have.
    """
    if ids is None and files is None:
        return None
    images = dataset.table.images
    index_of = {str(image["id"]): index for index, image in enumerate(images)}
    found = set()
    for image_id in ids or ():
        if image_id not in index_of:
            raise ValueError(
                f"no image has the id {image_id!r}; ids are such as {list(index_of)[:3]}"
            )
        found.add(index_of[image_id])
    for name in files or ():
        ends = {i for i, image in enumerate(images) if _ends_with(image_name(image), name)}
        if not ends:
            raise ValueError(f"no image has the file {name!r} in the annotations")
        found |= ends
    return found


def image_name(image: Mapping[str, Any]) -> str:
    """Return the file name of an entry of ``table.images``, or its URL."""
    return image.get("file_name") or image.get("coco_url") or ""


def _ends_with(path: str, end: str) -> bool:
    return f"/{path}".endswith(f"/{end.replace(os.sep, '/').lstrip('/')}")
