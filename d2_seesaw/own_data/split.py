"""Split of one annotation file into training and evaluation, by image or by group of images.

The categories are spread as in Sechidis et al., "On the Stratification of Multi-Label Data" (2011):
the rarest one first. A category with two or more groups of images is in both splits where that is
possible.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from d2_seesaw.data.annotations.image_groups import name_of
from d2_seesaw.data.annotations.table import AnnotationTable

VAL_SHARE = 0.2


@dataclass(frozen=True)
class Split:
    """A split of the images of a file.

    Attributes:
        val: ids of the images for evaluation; the others are trained on.
        only_trained: names of categories with images that have none for evaluation.
    """

    val: frozenset[Any]
    only_trained: list[str]


def split_images(
    table: AnnotationTable,
    share: float = VAL_SHARE,
    *,
    groups: np.ndarray | None = None,
    earlier: Mapping[str, bool] | None = None,
) -> Split:
    """Choose the images for evaluation. The order of the file and of its ids has no effect.

    Args:
        table: the annotations.
        share: of the images of each category.
        groups: ``(N,)`` numbers; images with the same one stay in one part. By default the images
            of the same name.
        earlier: whether images were evaluated in an earlier split, by their names. They stay in
            their part, and no image that was trained on is evaluated.

    Raises:
        ValueError: fewer than two groups, or no image can be evaluated.
    """
    names = [name_of(image) for image in table.images]
    chosen = _Choice(table, names, groups, share)
    if len(chosen.size) < 2:
        rest = "" if len(names) < 2 else ", which are all in one group"
        raise ValueError(
            f"one file is split by image, but it has {len(names)} images{rest}: give two files"
        )
    known = set() if earlier is None else chosen.keep(names, earlier)
    for category in np.argsort(chosen.groups_of_category, kind="stable").tolist():
        chosen.add_images_of(category, known)
    chosen.add_images_without_objects(known)
    if not chosen.is_val.any():
        rest = "" if earlier is None else " or evaluating one that was trained on: see --output"
        raise ValueError(f"no image can be left out of training without losing a category{rest}")
    missing = np.flatnonzero((chosen.total > 0) & (chosen.left == chosen.total))
    return Split(
        val=frozenset(
            image["id"]
            for image, group in zip(table.images, chosen.of_image.tolist(), strict=True)
            if chosen.is_val[group]
        ),
        only_trained=[table.categories[c]["name"] for c in missing.tolist()],
    )


class _Choice:
    """Groups that are chosen for evaluation so far.

    Groups are numbered in the order in which they are looked at, that of the hashes of names.

    Attributes:
        of_image: ``(N,)`` group of each image.
        size: ``(G,)`` numbers of images.
        is_val: ``(G,)`` whether a group is chosen.
        total: ``(C,)`` numbers of images of each category.
        left: ``(C,)`` those that are trained on.
        groups_of_category: ``(C,)`` numbers of groups.
    """

    def __init__(
        self, table: AnnotationTable, names: Sequence[str], groups: np.ndarray | None, share: float
    ) -> None:
        C = max(1, len(table.categories))
        self.share = share
        self.of_image = _in_order(names, groups)
        self.size = np.bincount(self.of_image)
        self.is_val = np.zeros(len(self.size), bool)
        usable = table.usable
        pairs = np.unique(table.image[usable].astype(np.int64) * C + table.category[usable])
        pairs, self._images = np.unique(
            self.of_image[pairs // C] * C + pairs % C, return_counts=True
        )
        self._category = pairs % C
        self._bounds = np.searchsorted(pairs // C, np.arange(len(self.size) + 1))
        self._by_category = np.argsort(self._category, kind="stable")
        self._group = pairs // C
        self.groups_of_category = np.bincount(self._category, minlength=len(table.categories))
        self._ends = np.cumsum(self.groups_of_category)
        self.total = np.zeros(len(table.categories), np.int64)
        np.add.at(self.total, self._category, self._images)
        self.left = self.total.copy()
        self._wanted = np.array([max(1, round(share * n)) for n in self.total.tolist()], np.int64)

    def keep(self, names: Sequence[str], earlier: Mapping[str, bool]) -> set[int]:
        """Choose the groups that were evaluated earlier; return all groups of known images.

        A group with an image that was trained on is trained on.
        """
        evaluated: dict[int, bool] = {}
        for name, group in zip(names, self.of_image.tolist(), strict=True):
            if name in earlier:
                evaluated[group] = evaluated.get(group, True) and earlier[name]
        for group in sorted(group for group, in_val in evaluated.items() if in_val):
            if self._stays_trained(group):
                self._add(group)
        return set(evaluated)

    def add_images_of(self, category: int, known: set[int]) -> None:
        """Choose groups until enough images of a category are chosen."""
        end = int(self._ends[category])
        rows = self._by_category[end - int(self.groups_of_category[category]) : end]
        free = [g for g in self._group[rows].tolist() if not self.is_val[g] and g not in known]
        for group in free:
            if self._wanting(category) <= 0:
                return
            if self._fits(group) and self._stays_trained(group):
                self._add(group)
        if self.left[category] == self.total[category]:  # rather too many images than none
            for group in sorted(free, key=lambda group: self.size[group]):
                if self._stays_trained(group):
                    self._add(group)
                    return

    def add_images_without_objects(self, known: set[int]) -> None:
        """Choose a share of the images in groups without any object."""
        empty = self._bounds[1:] == self._bounds[:-1]
        wanted = round(self.share * int(self.size[empty].sum()))
        wanted -= int(self.size[empty & self.is_val].sum())
        for group in np.flatnonzero(empty & ~self.is_val).tolist():
            if group not in known and 0 < self.size[group] <= 2 * wanted:
                self._add(group)
                wanted -= int(self.size[group])

    def _wanting(self, category: int | np.ndarray) -> Any:
        return self._wanted[category] - self.total[category] + self.left[category]

    def _fits(self, group: int) -> bool:
        """Return whether a group brings no number further above its share than it was below.

        A group of one image always fits.
        """
        row = slice(self._bounds[group], self._bounds[group + 1])
        wanting = np.maximum(1, self._wanting(self._category[row]))
        images = round(self.share * len(self.of_image)) - int(self.size[self.is_val].sum())
        return bool(
            (self._images[row] <= 2 * wanting).all() and self.size[group] <= 2 * max(1, images)
        )

    def _stays_trained(self, group: int) -> bool:
        """Return whether each category of a group has other images that are trained on."""
        row = slice(self._bounds[group], self._bounds[group + 1])
        return bool((self.left[self._category[row]] > self._images[row]).all())

    def _add(self, group: int) -> None:
        row = slice(self._bounds[group], self._bounds[group + 1])
        self.is_val[group] = True
        self.left[self._category[row]] -= self._images[row]


def _in_order(names: Sequence[str], groups: np.ndarray | None) -> np.ndarray:
    """Return the groups of images, numbered by the least hash of a name in each."""
    given = names if groups is None else groups.tolist()
    hashes = [hashlib.sha256(name.encode()).digest() for name in names]
    least: dict[Any, bytes] = {}
    for group, digest in zip(given, hashes, strict=True):
        least[group] = min(digest, least.get(group, digest))
    number = {group: i for i, group in enumerate(sorted(least, key=lambda group: least[group]))}
    return np.array([number[group] for group in given], np.int64)
