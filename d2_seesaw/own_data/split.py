"""Split of one annotation file into training and evaluation, by image.

The categories are spread as in Sechidis et al., "On the Stratification of Multi-Label Data" (2011):
the rarest one first. A category with two or more images is in both splits where that is possible.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from d2_seesaw.data.annotations.coco import read_content
from d2_seesaw.data.annotations.schema import as_id
from d2_seesaw.data.annotations.table import AnnotationTable
from d2_seesaw.utils.files import write_text

VAL_SHARE = 0.2
_SOURCE = "d2_seesaw_split"  # section of the written files that names the file they come from


@dataclass(frozen=True)
class Split:
    """A split of the images of a file.

    Attributes:
        val: ids of the images for evaluation; the others are trained on.
        only_trained: names of categories with images that have none for evaluation.
    """

    val: frozenset[Any]
    only_trained: list[str]


def split_images(table: AnnotationTable, share: float = VAL_SHARE) -> Split:
    """Choose the images for evaluation. The order of the file and of its ids has no effect.

    Args:
        table: the annotations.
        share: of the images of each category.

    Raises:
        ValueError: fewer than two images.
    """
    N, C = len(table.images), len(table.categories)
    if N < 2:
        raise ValueError(f"one file is split by image, but it has {N} images: give two files")
    shown = np.zeros((N, C), bool)
    shown[table.image[table.usable], table.category[table.usable]] = True
    keys = [str(image.get("file_name") or image.get("coco_url")) for image in table.images]
    order = sorted(range(N), key=lambda i: hashlib.sha256(keys[i].encode()).digest())
    total = shown.sum(axis=0)
    left = total.copy()  # images of each category that are trained on
    chosen = np.zeros(N, bool)
    for category in np.argsort(total, kind="stable"):
        wanted = max(1, round(share * int(total[category])))
        for image in (i for i in order if shown[i, category] and not chosen[i]):
            if total[category] - left[category] >= wanted:
                break
            if (left[shown[image]] > 1).all():  # each of its categories stays in training
                chosen[image] = True
                left -= shown[image]
    empty = [i for i in order if not shown[i].any()]
    chosen[empty[: round(share * len(empty))]] = True
    if not chosen.any():
        raise ValueError("no image can be left out of training without losing a category")
    missing = np.flatnonzero((total > 0) & (left == total))
    return Split(
        val=frozenset(table.images[i]["id"] for i in np.flatnonzero(chosen).tolist()),
        only_trained=[table.categories[c]["name"] for c in missing.tolist()],
    )


@dataclass(frozen=True)
class Source:
    """The file that a split comes from.

    Attributes:
        file: its absolute path.
        sha256: hash of its content.
    """

    file: str
    sha256: str

    @classmethod
    def of(cls, json_file: str | Path) -> "Source":
        """Return the source that an annotation file would be."""
        content = Path(json_file).read_bytes()
        return cls(os.path.abspath(json_file), hashlib.sha256(content).hexdigest())


def source_of(part: str | Path) -> Source | None:
    """Return the file that a part of a split comes from; None for any other, or no, file."""
    try:
        recorded = read_content(Path(part).read_bytes(), str(part)).get(_SOURCE)
        return Source(**recorded) if isinstance(recorded, dict) else None
    except (OSError, ValueError, TypeError):
        return None


def write_split(json_file: Path, split: Split, folder: Path) -> tuple[Path, Path]:
    """Write the two parts of a file as ``split_train.json`` and ``split_val.json``.

    Everything but images and annotations is in both, and the file that they come from.

    Returns:
        The paths of the two files.

    Raises:
        ValueError: one of the files exists and is the given one, or no part of a split.
    """
    paths = folder / "split_train.json", folder / "split_val.json"
    for path in paths:
        if path.exists() and path.samefile(json_file):
            raise ValueError(
                f"the split of {json_file} would overwrite it: choose another --output"
            )
        if os.path.lexists(path) and (not path.exists() or source_of(path) is None):
            raise ValueError(
                f"{path} exists and was not written by train --data: move it, or choose another "
                "--output"
            )
    content = read_content(json_file.read_bytes(), str(json_file))
    source = {_SOURCE: asdict(Source.of(json_file))}
    for path, in_val in zip(paths, (False, True), strict=True):
        part = content | source
        part |= {
            section: list(_of_split(content[section], key, split, in_val))
            for section, key in (("images", "id"), ("annotations", "image_id"))
        }
        write_text(path, json.dumps(part))
    return paths


def _of_split(
    entries: Iterable[dict[str, Any]], key: str, split: Split, in_val: bool
) -> Iterable[dict[str, Any]]:
    return (entry for entry in entries if (as_id(entry[key]) in split.val) == in_val)
