"""Categories of cut-outs, and their split by object.

Shapes in this module:
    H, W: height and width of a picture
"""

import hashlib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from d2_seesaw.data.annotations.schema import is_text
from d2_seesaw.synthetic.cutouts.pictures import LeftOut
from d2_seesaw.synthetic.table import read_table
from d2_seesaw.utils.text import printable

_MIRRORED = re.compile(r"(?:[_-](?:mirror|mirrored|flip|flipped))+$", re.IGNORECASE)
_VARIANT = re.compile(r"[_-](?:d|l|dark|light|day|night|\d+x\d+)$", re.IGNORECASE)


@dataclass(frozen=True)
class FoundPicture:
    """Usable picture.

    Attributes:
        path: path relative to its folder, with "/".
        pixels: hash of the visible pixels, equal for mirrored pictures.
        copy: working copy, an ``(H, W, 3 or 4)`` uint8 array in an .npy file.
    """

    path: str
    pixels: str
    copy: Path


@dataclass(frozen=True)
class CategoryCutouts:
    """Cut-outs of a category, in two parts without a common object."""

    name: str
    train: list[FoundPicture]
    val: list[FoundPicture]


def categories_from_folders(
    paths: Iterable[str], depth: int | None, left_out: LeftOut
) -> dict[str, str]:
    """Return the category of each path: its folder, or the first ``depth`` folders of it.

    Raises:
        ValueError: the name of a folder cannot be that of a category.
    """
    categories = {}
    for path in paths:
        folders = path.split("/")[:-1][:depth]
        if folders:
            categories[path] = _checked_name("/".join(folders), f"the folder of {printable(path)}")
        else:
            left_out.by_reason["in no folder that names a category"].append(path)
    return categories


def categories_from_table(table: Path, folder: Path) -> dict[str, str]:
    """Read the category of each picture from a CSV file.

    Raises:
        ValueError: the table cannot be read, lacks a column, names a missing file or a file twice,
            or a name cannot be that of a category.
    """
    categories: dict[str, str] = {}
    for number, (given, category) in read_table(table, ("file", "category")):
        path = _relative_path(given, folder)
        _checked_name(category, f"{table}, row {number}")
        if categories.setdefault(path, category) != category:
            raise ValueError(
                f"{table}, row {number}: {printable(given)} has another category before, "
                f"{printable(categories[path])}"
            )
        if not (folder / path).is_file():
            raise ValueError(
                f"{table}, row {number}: there is no {printable(given)} in {printable(folder)}"
            )
    return dict(sorted(categories.items()))


def _checked_name(name: str, place: str) -> str:
    """Return a name of a category that annotation files, which are UTF-8, can contain."""
    if not is_text(name):
        raise ValueError(
            f"{place} cannot name a category: {printable(name)} is not text in UTF-8. Rename it, "
            "or name categories in a table"
        )
    return name


def _relative_path(given: str, folder: Path) -> str:
    """Return one spelling of a path: relative to the folder, without "." and inner ".."."""
    path = folder / given.replace("\\", "/")
    return Path(os.path.relpath(path, folder)).as_posix()


def object_of(path: str) -> str:
    """Return what pictures of the same object have in common: the name without "_mirror"."""
    return _MIRRORED.sub("", Path(_normalized(path)).stem).lower()


def motif_of(path: str) -> str:
    """Return what variants of a background have in common: the path without "-dark" or "-l"."""
    return _VARIANT.sub("", _MIRRORED.sub("", os.path.splitext(_normalized(path))[0]))


def _normalized(path: str) -> str:
    return unicodedata.normalize("NFC", path)


def shuffled(names: Iterable[str], seed: int) -> list[str]:
    """Return names in an order that depends on each name and the seed, not on other names."""

    def key(name: str) -> bytes:
        return hashlib.sha256(f"{seed}/{name}".encode(errors="surrogateescape")).digest()

    return sorted(set(names), key=key)


def number_held_out(total: int, share: float) -> int:
    """Return how many of ``total`` things validation gets: at least one on each side."""
    return min(max(round(share * total), 1), total - 1)


def without_copies(pictures: Iterable[FoundPicture], left_out: LeftOut) -> list[FoundPicture]:
    """Return the first of the pictures with the same pixels, in their order.

    A copy under another name could otherwise be in training and in validation.
    """
    first: dict[str, FoundPicture] = {}
    for picture in pictures:
        if first.setdefault(picture.pixels, picture) is not picture:
            left_out.by_reason["same pixels as another, possibly mirrored"].append(picture.path)
    return list(first.values())


def split_categories(
    categories: dict[str, str],
    pictures: Sequence[FoundPicture],
    *,
    held_out: float,
    seed: int,
    left_out: LeftOut,
) -> list[CategoryCutouts]:
    """Split the cut-outs of each category into training and validation by object.

    Args:
        categories: category of each path.
        pictures: usable pictures, sorted by path. Of pictures with the same pixels, the first
            counts.
        held_out: share of the objects of each category for validation.
        seed: seed of the choice.
        left_out: gets the pictures that are not used.

    Returns:
        The categories with at least two objects, sorted by name.
    """
    objects: dict[str, dict[str, list[FoundPicture]]] = defaultdict(lambda: defaultdict(list))
    for picture in without_copies(pictures, left_out):
        objects[categories[picture.path]][object_of(picture.path)].append(picture)
    split = []
    for name, members in sorted(objects.items()):
        if len(members) < 2:
            reason = "the only object of its category, none left for validation"
            left_out.by_reason[reason].extend(p.path for part in members.values() for p in part)
            continue
        order = shuffled(members, seed)
        number = number_held_out(len(order), held_out)
        val, train = (
            sorted((p for key in keys for p in members[key]), key=lambda p: p.path)
            for keys in (order[:number], order[number:])
        )
        split.append(CategoryCutouts(name, train, val))
    return split
