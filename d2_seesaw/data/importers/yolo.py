"""YOLO labels: one text file per image, a line per object, coordinates as fractions of the image.

A line is a class index and either a box ``x y w h`` with its center, or the points of a polygon, as
Ultralytics writes and Roboflow, CVAT and Label Studio export them. A polygon of four points looks
the same as the rotated box of an OBB dataset. Lines count as rotated boxes if all polygons of the
dataset have four points, most of them right angles, and not all of these are upright.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2_seesaw.data.importers.dataset import DatasetBuilder, ImportedDataset, ImportOptions
from d2_seesaw.data.importers.files import (
    categories_from,
    image_files,
    names_of,
    read_names,
    read_yaml,
)

_BEYOND = 0.01  # coordinates that were rounded reach that far beyond 0 and 1
_RIGHT_ANGLE = 0.05  # largest cosine of the angle
_UPRIGHT = 1.0  # pixels that corners of an upright box differ from their box
_NAME_FILES = ("classes.txt", "obj.names", "data.names", "labels.txt")


@dataclass(frozen=True)
class _Layout:
    """The files of a dataset: ``(image, labels)``, the root of file names, and the classes."""

    files: Sequence[tuple[Path, Path]]
    root: Path
    names: dict[int, str]
    keypoint_numbers: int


@dataclass(frozen=True)
class _Line:
    place: str
    label: int
    numbers: NDArray[np.float64]


def import_yolo(
    source: str | Path,
    *,
    images: str | Path | None = None,
    split: str = "train",
    classes: str | Path | None = None,
    polygons: bool = False,
    options: ImportOptions | None = None,
) -> ImportedDataset:
    """Import YOLO labels with boxes or polygons.

    Class 0 becomes category 1. An image without a label file has no objects. A line that repeats
    another one of its file is left out. Keypoints are left out if the YAML file has ``kpt_shape``.

    Args:
        source: a YAML file of Ultralytics, a folder with one, or a folder of label files.
        images: folder that file names are relative to; for a folder of label files, the images. By
            default the folder of the split, or ``images`` beside ``labels``, or the
            folder itself.
        split: ``train``, ``val`` or ``test`` of the YAML file.
        classes: class names, one a line, or a YAML file with ``names``. By default those of the
            YAML file, or of ``classes.txt`` or ``obj.names`` in the folder or the one above.
        polygons: lines with four points are polygons, whatever their shape.
        options: choices about boxes and masks.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file or line is invalid; the message names both.
    """
    image_root = Path(images) if images else None
    layout = _layout(Path(source), image_root, split, Path(classes) if classes else None)
    categories = categories_from(layout.names)
    options = options or ImportOptions()
    builder = DatasetBuilder(f"YOLO labels {source}", layout.root, categories, options)
    if not any(labels.is_file() for _, labels in layout.files):
        image, labels = layout.files[0]
        raise ValueError(
            f"none of the {len(layout.files)} images has a label file: {labels} for {image} does "
            "not exist"
        )
    found = []
    for path, labels in layout.files:
        image = builder.add_image(path, str(labels))
        found += [(image, line) for line in _lines(labels, layout, builder)]
    are_rotated = not polygons and _are_rotated(found)
    for image, line in found:
        _add(builder, image, line, layout.names[line.label], are_rotated)
    _note_orphans(layout, builder)
    return builder.finish()


def _add(
    builder: DatasetBuilder, image: dict[str, Any], line: _Line, name: str, are_rotated: bool
) -> None:
    size = np.array([image["width"], image["height"]], dtype=np.float64)
    if len(line.numbers) == 4:
        center, extent = line.numbers[:2] * size, line.numbers[2:] * size
        corners = [*(center - extent / 2), *(center + extent / 2)]
        builder.add_box(image, name, corners, line.place)
    elif are_rotated:
        builder.add_rotated_box(image, name, _points(image, line), line.place)
    else:
        builder.add_polygons(image, name, [_points(image, line)], line.place)


def _points(image: dict[str, Any], line: _Line) -> NDArray[np.float64]:
    fractions = np.clip(line.numbers.reshape(-1, 2), 0, 1)
    return fractions * [image["width"], image["height"]]


def _are_rotated(found: Sequence[tuple[dict[str, Any], _Line]]) -> bool:
    """Return whether the polygons are rotated boxes, as the description of the module says."""
    shapes = [_points(image, line) for image, line in found if len(line.numbers) > 4]
    if not shapes or any(len(points) != 4 for points in shapes):
        return False
    rectangles = [points for points in shapes if _is_rectangle(points)]
    upright = all(
        np.abs(points[:, None] - [points.min(axis=0), points.max(axis=0)]).min(axis=1).max()
        <= _UPRIGHT
        for points in rectangles
    )
    return 2 * len(rectangles) > len(shapes) and not upright


def _is_rectangle(points: NDArray[np.float64]) -> bool:
    edges = np.roll(points, -1, axis=0) - points
    lengths = np.linalg.norm(edges, axis=1)
    products = (edges * np.roll(edges, -1, axis=0)).sum(axis=1)
    return bool((np.abs(products) <= _RIGHT_ANGLE * lengths * np.roll(lengths, -1)).all())


def _lines(labels: Path, layout: _Layout, builder: DatasetBuilder) -> Iterator[_Line]:
    if not labels.is_file():
        return
    seen = set()
    try:
        lines = labels.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{labels} is not text: {error}") from error
    for number, text in enumerate(lines, 1):
        fields, place = tuple(text.split()), f"{labels}, line {number}"
        if not fields:
            continue
        if fields in seen:
            builder.note("lines that repeat another one left out", place)
            continue
        seen.add(fields)
        yield _parsed(fields, place, layout, builder)


def _parsed(fields: Sequence[str], place: str, layout: _Layout, builder: DatasetBuilder) -> _Line:
    try:
        values = np.array([float(text) for text in fields])
    except ValueError:
        values = np.array([np.nan])
    if not np.isfinite(values).all():
        raise ValueError(f"{place}: must be finite numbers, got {' '.join(fields)[:80]!r}")
    label, numbers = values[0], values[1:]
    if label not in layout.names:
        raise ValueError(
            f"{place}: the class index {fields[0]} is not among the {len(layout.names)} names, "
            f"which are numbered from {min(layout.names)} to {max(layout.names)}"
        )
    if layout.keypoint_numbers and len(numbers) == 4 + layout.keypoint_numbers:
        builder.note("objects whose keypoints are left out", place)
        numbers = numbers[:4]
    is_box = len(numbers) == 4
    if not is_box and (layout.keypoint_numbers or len(numbers) < 6 or len(numbers) % 2):
        raise ValueError(
            f"{place}: must be a class index and four numbers (a box) or at least three points x y "
            f"(a polygon), got {len(fields)} numbers"
        )
    low = 0 if is_box else -_BEYOND  # the size of a box is not rounded below 0
    if numbers.min() < low or numbers.max() > 1 + _BEYOND:
        wrong = fields[1 + int(np.argmax(np.abs(numbers - 0.5)))]
        raise ValueError(f"{place}: coordinates must be fractions from 0 to 1, got {wrong}")
    return _Line(place, int(label), numbers)


def _note_orphans(layout: _Layout, builder: DatasetBuilder) -> None:
    used = {labels for _, labels in layout.files}
    for folder in sorted({labels.parent for labels in used}):
        for file in sorted(folder.glob("*.txt")):
            if file not in used and file.name not in _NAME_FILES:
                builder.note("label files without an image left out", str(file))


def _layout(source: Path, images: Path | None, split: str, classes: Path | None) -> _Layout:
    """Find the files.

    Raises:
        FileNotFoundError, ValueError: there are none.
    """
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist")
    configs = sorted(source.glob("*.y*ml")) if source.is_dir() else [source]
    if configs and configs[0].suffix.lower() in (".yaml", ".yml"):
        if len(configs) > 1:
            raise ValueError(f"{source} has {len(configs)} YAML files: give one of them")
        return _layout_of_config(configs[0], images, split, classes)
    if not source.is_dir():
        raise ValueError(f"{source} is neither a YAML file nor a folder")
    labels = source / "labels" if (source / "labels").is_dir() else source
    if images is None:
        images = _images_of(labels)
    files = [(f, (labels / f.relative_to(images)).with_suffix(".txt")) for f in image_files(images)]
    names = read_names(classes or _name_file(source))
    return _checked(_Layout(files, images, names, 0), images)


def _images_of(labels: Path) -> Path:
    """Return the folder of images: ``images`` in place of the last ``labels``, or the same one."""
    beside = _replaced(labels, "labels", "images")
    if beside is not None and beside.is_dir():
        return beside
    if not image_files(labels):
        raise ValueError(f"the images of {labels} were not found: give --images FOLDER")
    return labels


def _replaced(path: Path, part: str, by: str) -> Path | None:
    parts = list(path.parts)
    if part not in parts:
        return None
    parts[len(parts) - 1 - parts[::-1].index(part)] = by
    return Path(*parts)


def _name_file(source: Path) -> Path:
    for folder in (source, source.parent):
        for name in _NAME_FILES:
            if (folder / name).is_file():
                return folder / name
    raise ValueError(f"no {' or '.join(_NAME_FILES[:2])} in {source}: give --classes FILE")


def _layout_of_config(
    config_file: Path, images: Path | None, split: str, classes: Path | None
) -> _Layout:
    config = read_yaml(config_file)
    names = read_names(classes) if classes else names_of(config, config_file)
    given = config.get(split)
    entries: list[Any] = given if isinstance(given, list) else [given]
    if not all(isinstance(entry, str) and entry for entry in entries):
        splits = [name for name in ("train", "val", "test") if config.get(name)]
        raise ValueError(f"{config_file} has no split {split!r}: give --split with one of {splits}")
    paths = [_find(entry, config_file, config) for entry in entries]
    files: list[Path] = []
    for path in paths:
        files += image_files(path) if path.is_dir() else _listed(path, config_file, config)
    one_folder = len(paths) == 1 and paths[0].is_dir()
    root = images or (paths[0] if one_folder else _base(config_file, config))
    return _checked(
        _Layout([(f, _labels_of(f)) for f in files], root, names, _keypoint_numbers(config)), root
    )


def _checked(layout: _Layout, folder: Path) -> _Layout:
    if not layout.files:
        raise ValueError(f"there are no images in {folder}")
    return layout


def _base(config_file: Path, config: dict[str, Any]) -> Path:
    """Return the folder of the dataset, from ``path`` of the YAML file where that exists."""
    base = config_file.parent / config.get("path", "")
    return base if base.is_dir() else config_file.parent


def _find(entry: str, config_file: Path, config: dict[str, Any]) -> Path:
    """Find a folder or list of images.

    Roboflow writes ``../train/images`` although the folder is beside the YAML file.
    """
    bases = (_base(config_file, config), config_file.parent)
    tried = [b / e for b in bases for e in (entry, entry.removeprefix("../"))]
    for path in tried:
        if path.exists():
            return path
    raise FileNotFoundError(f"{config_file} names {entry}, but {tried[0]} does not exist")


def _listed(path: Path, config_file: Path, config: dict[str, Any]) -> list[Path]:
    """Read a list of image files."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    bases = (path.parent, _base(config_file, config))
    return [
        next((b / line for b in bases if (b / line).is_file()), bases[0] / line)
        for line in lines
        if line
    ]


def _labels_of(image: Path) -> Path:
    """Return the label file: below ``labels`` in place of ``images``, or beside the image."""
    return (_replaced(image, "images", "labels") or image).with_suffix(".txt")


def _keypoint_numbers(config: dict[str, Any]) -> int:
    shape = config.get("kpt_shape")
    if not shape:
        return 0
    try:
        points, numbers = map(int, shape)
    except (TypeError, ValueError):
        raise ValueError(f"'kpt_shape' must be two whole numbers, got {shape!r}") from None
    return points * numbers
