"""Files that importers read: sizes of images, class names, YAML, JSON and XML."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

import yaml

from d2_seesaw.data.image_files import open_image
from d2_seesaw.utils.text import did_you_mean

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_EXIF_ORIENTATION, _SIDEWAYS = 274, (5, 6, 7, 8)


def image_size(path: Path, place: str) -> tuple[int, int]:
    """Read ``(width, height)`` of an image file, turned as its EXIF data say.

    Raises:
        ValueError: there is no such file, or it is not an image.
    """
    if not path.is_file():
        raise ValueError(f"{place}: there is no image {path}{_hint(path)}")
    try:
        with open_image(path) as image:
            width, height = image.size
            turned = image.getexif().get(_EXIF_ORIENTATION) in _SIDEWAYS
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{place}: {path} cannot be read as an image: {error}") from error
    return (height, width) if turned else (width, height)


def _hint(path: Path) -> str:
    """Return a file of the same folder with a similar name, as a question."""
    folder = path.parent
    if not folder.is_dir():
        return f": the folder {folder} does not exist"
    return did_you_mean(path.name, (file.name for file in folder.iterdir()))


def image_files(folder: Path) -> list[Path]:
    """Return all image files in a folder and the folders in it, sorted."""
    return sorted(f for f in folder.rglob("*") if f.suffix.lower() in IMAGE_SUFFIXES)


def read_names(path: Path) -> dict[int, str]:
    """Read class names by index from a text file, one a line, or from ``names`` of a YAML file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has no names, or a name twice.
    """
    if path.suffix.lower() in (".yaml", ".yml"):
        return names_of(read_yaml(path), path)
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    return _checked_names({i: n.strip() for i, n in enumerate(filter(str.strip, lines))}, path)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file whose values all stay text, so that a class may be called ``no``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a mapping.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8-sig"), yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must be a mapping with 'names', got {str(content)[:60]!r}")
    return content


def names_of(config: Mapping[str, Any], path: Path) -> dict[int, str]:
    """Return ``names`` of a YAML file, a list or a mapping from class indices."""
    names = config.get("names")
    if isinstance(names, dict) and all(k.isdecimal() for k in names):
        indexed = {int(key): name for key, name in sorted(names.items(), key=lambda n: int(n[0]))}
    elif isinstance(names, list):
        indexed = dict(enumerate(names))
    else:
        raise ValueError(f"{path}: 'names' must be a list, or a mapping from 0, 1, ... to names")
    return _checked_names(indexed, path)


def _checked_names(names: dict[int, Any], path: Path) -> dict[int, str]:
    values = list(names.values())
    if not values or not all(isinstance(name, str) and name for name in values):
        raise ValueError(f"{path} must name each class with text, got {str(values)[:100]}")
    if repeated := [name for name in values if values.count(name) > 1]:
        raise ValueError(f"{path} has the name {repeated[0]!r} twice")
    return names


def categories_from(names: Mapping[int, str] | None) -> list[dict[str, Any]] | None:
    """Return categories numbered from 1 for classes numbered from 0, None for None."""
    if names is None:
        return None
    return [{"id": index + 1, "name": name} for index, name in names.items()]


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not valid JSON.
    """
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def read_xml(path: Path) -> ElementTree.Element:
    """Read an XML file. Entities, which can expand to any size, are refused.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not valid XML, or declares entities.
    """
    text = path.read_bytes()

    def refuse(*_: Any) -> None:
        raise ValueError(f"{path} declares XML entities, which are not read")

    scanner = expat.ParserCreate()
    scanner.EntityDeclHandler = refuse
    try:
        scanner.Parse(text, True)
        return ElementTree.fromstring(text)
    except (expat.ExpatError, ElementTree.ParseError, RecursionError) as error:
        raise ValueError(f"{path} is not valid XML: {error}") from error


def find_image(root: Path, name: str | None, stem: Path, place: str) -> Path:
    """Find the image of an annotation file.

    Candidates are the name in the file, its last part, and the path of the annotation file with a
    suffix of images. Backslashes of Windows separate folders, too.

    Args:
        root: folder of the images.
        name: the file name in the annotations, if any.
        stem: the annotation file relative to its folder, without suffix.
        place: the annotation file, for messages.

    Raises:
        ValueError: there is no such image.
    """
    given = PureWindowsPath((name or "").strip())
    named = (
        [Path(given.as_posix()), stem.parent / given.name, Path(given.name)] if given.name else []
    )
    candidates = [
        root / path for path in named if not path.is_absolute() and ".." not in path.parts
    ]
    for path in candidates:
        if path.is_file():
            return path
    beside = (root / stem).parent
    for path in sorted(beside.iterdir()) if beside.is_dir() else ():
        if path.stem == stem.name and path.suffix.lower() in IMAGE_SUFFIXES:
            return path
    files = {file.relative_to(root).as_posix(): file.name.lower() for file in image_files(root)}
    deeper = [file for file, last in files.items() if last == given.name.lower()]
    hint = f"; did you mean {deeper[0]!r}?" if deeper else did_you_mean(given.name, files)
    raise ValueError(f"{place}: its image {name or stem.name!r} was not found in {root}{hint}")
