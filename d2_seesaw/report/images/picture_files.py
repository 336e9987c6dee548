"""Files of pictures: their names, one for each image of a dataset, and those of earlier calls."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from d2_seesaw.report.images.selection import image_name
from d2_seesaw.utils.files import path_component
from d2_seesaw.utils.marks import has_mark


def picture_names(images: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the name of the PNG file of each image: that of the image, with its id if needed.

    Each is a single component of a path. No two are the same on any file system, also where names
    in other cases or in another normal form of Unicode are the same.

    Args:
        images: Images of the annotations, with an "id" and a "file_name" or a "coco_url".
    """
    used: set[str] = set()
    names = []
    for image in images:
        text = Path(image_name(image)).stem or str(image["id"])
        while (key := _key(name := path_component(text))) in used:
            text += f"_{image['id']}"
        used.add(key)
        names.append(f"{name}.png")
    return names


def earlier_pictures(folder: Path, pattern: str, written: Collection[Path]) -> list[Path]:
    """Return the pictures in a folder that have the mark of this project and are not of this call.

    Args:
        folder: The folder, which may not exist. Folders below it are not searched.
        pattern: Pattern of the names, such as ``*.png``.
        written: Paths of this call.
    """
    found = sorted(path for path in folder.glob(pattern) if path.is_file())
    return [path for path in found if path not in written and has_mark(path)]


def _key(name: str) -> str:
    """Return what is equal for names that are the same on some file system."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
