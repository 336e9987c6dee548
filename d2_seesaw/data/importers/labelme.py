"""Labelme: one JSON file per image, with polygons, rectangles, circles and masks.

Shapes of one ``group_id`` and label are parts of one object, as in Labelme's own export.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from d2_seesaw.data.importers.dataset import DatasetBuilder, ImportedDataset, ImportOptions
from d2_seesaw.data.importers.files import categories_from, find_image, read_json, read_names
from d2_seesaw.data.rle import encode_segmentation

_WITHOUT_AREA = ("point", "points", "line", "linestrip")
_ROTATED = ("oriented_rectangle", "rotation")  # of Labelme, of X-AnyLabeling
_NOT_OBJECTS = ("__ignore__", "_background_")  # in Labelme's lists of labels
_SAGITTA = 0.05  # pixels between a circle and its polygon
_FEWEST_POINTS = 16


def import_labelme(
    source: str | Path,
    *,
    images: str | Path | None = None,
    classes: str | Path | None = None,
    options: ImportOptions | None = None,
) -> ImportedDataset:
    """Import files of Labelme.

    Polygons and masks are kept, circles become polygons, and rectangles become boxes or, as a part
    of an object with a mask, polygons. Points and lines have no area and are left out. Flags,
    descriptions, and the image in the JSON file are lost.

    Args:
        source: a folder of JSON files, or one file.
        images: folder that file names are relative to; by default the one of the JSON files.
        classes: class names, one a line; by default the labels of the shapes, sorted.
        options: choices about boxes and masks.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file or shape is invalid; the message names both.
    """
    source = Path(source)
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist")
    folder = source if source.is_dir() else source.parent
    files = sorted(source.rglob("*.json")) if source.is_dir() else [source]
    names = read_names(Path(classes)) if classes else None
    if names:
        kept = [name for name in names.values() if name not in _NOT_OBJECTS]
        names = dict(enumerate(kept))
    builder = DatasetBuilder(
        f"Labelme {source}",
        Path(images or folder),
        categories_from(names),
        options or ImportOptions(),
    )
    for file in files:
        content = read_json(file)
        if isinstance(content, dict) and "shapes" in content:
            _add_file(builder, file, content, file.relative_to(folder).with_suffix(""))
        else:
            builder.note("JSON files without shapes left out", str(file))
    return builder.finish()


def _add_file(builder: DatasetBuilder, file: Path, content: Mapping[str, Any], stem: Path) -> None:
    path = _image_of(builder, file, content, stem)
    size: Any = (content.get("imageWidth"), content.get("imageHeight"))
    image = builder.add_image(path, str(file), None if None in size else size)
    shapes = content["shapes"]
    if not isinstance(shapes, list):
        raise ValueError(f"{file}: 'shapes' must be a list, got {str(shapes)[:60]}")
    groups: dict[Any, list[_Part]] = {}
    for number, shape in enumerate(shapes, 1):
        part = _part(builder, shape, image, f"{file}, shape {number}")
        if part is not None:
            groups.setdefault(part.key(number), []).append(part)
    for parts in groups.values():
        _add_object(builder, image, parts)


def _image_of(builder: DatasetBuilder, file: Path, content: Mapping[str, Any], stem: Path) -> Path:
    name = content.get("imagePath")
    if not isinstance(name, str | None):
        raise ValueError(f"{file}: 'imagePath' must be text, got {name!r}")
    root = builder.image_root
    beside = Path(os.path.abspath(file.parent / (name or "").replace("\\", "/")))
    below = os.path.relpath(beside, root)
    if beside.is_file() and not below.startswith(".."):
        return root / below
    try:
        return find_image(root, name, stem, str(file))
    except ValueError as error:
        hint = "; the JSON file has a copy of it in 'imageData'" if content.get("imageData") else ""
        raise ValueError(f"{error}{hint}") from None


class _Part:
    """A shape: a box, a polygon or a bitmap ``(H, W)``.

    Attributes:
        label: Its label.
        kind: ``box``, ``rotated``, ``polygon`` or ``mask``.
        points: ``(P, 2)`` points; for a box two opposite corners.
        mask: The bitmap of a mask.
        place: Where it is in the source.
        group: The group that makes shapes parts of one object.
    """

    def __init__(
        self,
        label: str,
        kind: str,
        points: NDArray[np.float64],
        place: str,
        group: Any,
        mask: NDArray[np.bool_] | None = None,
    ) -> None:
        self.label, self.kind, self.points, self.mask = label, kind, points, mask
        self.place, self.group = place, group

    def key(self, number: int) -> tuple[Any, ...]:
        """Return what parts of one object have in common."""
        return (number,) if self.group is None else (self.label, self.group, "group")

    def polygon(self) -> NDArray[np.float64]:
        """Return the outline."""
        if self.kind != "box":
            return self.points
        (x0, y0), (x1, y1) = self.points.min(axis=0), self.points.max(axis=0)
        return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


def _part(
    builder: DatasetBuilder, shape: Any, image: Mapping[str, Any], place: str
) -> _Part | None:
    """Read a shape; return None if it is not an object."""
    if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
        raise ValueError(f"{place}: must be an object with a label, got {str(shape)[:60]}")
    label, kind = shape["label"], shape.get("shape_type") or "polygon"
    if label in _NOT_OBJECTS:
        builder.note(f"shapes called {label} left out", place)
        return None
    if kind in _WITHOUT_AREA:
        builder.note(f"shapes of the type {kind}, which has no area, left out", place)
        return None
    return _part_with_area(shape, image, place)


def _part_with_area(shape: Mapping[str, Any], image: Mapping[str, Any], place: str) -> _Part:
    label, kind, group = shape["label"], shape.get("shape_type") or "polygon", shape.get("group_id")
    if not isinstance(group, int | str | None):
        raise ValueError(f"{place}: 'group_id' must be a whole number, got {group!r}")
    points = _points(shape.get("points"), place)
    if kind in ("polygon", *_ROTATED):
        form = "polygon" if kind == "polygon" else "rotated"
        if form == "rotated" and len(points) != 4:
            raise ValueError(f"{place}: a {kind} needs four points, got {len(points)}")
        return _Part(label, form, points, place, group)
    if kind == "rectangle" and len(points) in (2, 4):
        return _Part(label, "box", points, place, group)
    if kind == "circle" and len(points) == 2:
        return _Part(label, "polygon", _circle(points), place, group)
    if kind == "mask" and len(points) == 2:
        mask = _bitmap(shape.get("mask"), points, image, place)
        return _Part(label, "mask", points, place, group, mask)
    raise ValueError(f"{place}: a {kind} with {len(points)} points cannot be imported")


def _points(points: Any, place: str) -> NDArray[np.float64]:
    pairs = isinstance(points, list) and all(isinstance(p, list) and len(p) == 2 for p in points)
    numbers = [n for p in points for n in p] if pairs else []
    are_numbers = all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers)
    if not numbers or not are_numbers or not all(abs(n) < 2**31 for n in numbers):
        raise ValueError(f"{place}: 'points' must be pairs of finite numbers: {str(points)[:80]}")
    return np.array(points, dtype=np.float64)


def _circle(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a polygon of a circle, given by its center and a point on it."""
    radius = float(np.linalg.norm(points[1] - points[0]))
    number = int(np.ceil(np.pi / np.sqrt(2 * _SAGITTA / max(radius, 1))))
    angles = 2 * np.pi * np.arange(max(_FEWEST_POINTS, number)) / max(_FEWEST_POINTS, number)
    return points[0] + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _bitmap(
    text: Any, points: NDArray[np.float64], image: Mapping[str, Any], place: str
) -> NDArray[np.bool_]:
    """Paste the mask of a shape, a PNG in base64, at its first point."""
    (x0, y0), (x1, y1) = points.astype(int)
    stated = (int(x1 - x0 + 1), int(y1 - y0 + 1))
    inside = x0 >= 0 and y0 >= 0 and x1 < image["width"] and y1 < image["height"]
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"]) as png:
            size = png.size  # compared before the pixels are read
            part = np.array(png).astype(bool) if inside and size == stated else None
    except (TypeError, ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{place}: its 'mask' must be a PNG in base64: {error}") from error
    if size != stated:
        raise ValueError(
            f"{place}: its mask is {size[0]} x {size[1]}, its points say {stated[0]} x {stated[1]}"
        )
    if part is None:
        raise ValueError(f"{place}: its mask reaches beyond the image")
    mask = np.zeros((image["height"], image["width"]), dtype=bool)
    mask[y0 : y1 + 1, x0 : x1 + 1] = part
    return mask


def _add_object(builder: DatasetBuilder, image: Mapping[str, Any], parts: Sequence[_Part]) -> None:
    name, place = parts[0].label, parts[0].place
    kinds = {part.kind for part in parts}
    if kinds == {"box"}:
        if len(parts) > 1:
            builder.note("groups of rectangles replaced by the box around them", place)
        corners = np.concatenate([part.points for part in parts])
        box = [*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist()]
        builder.add_box(image, name, box, place)
    elif kinds == {"rotated"} and len(parts) == 1:
        builder.add_rotated_box(image, name, parts[0].points, place)
    elif "mask" not in kinds:
        builder.add_polygons(image, name, [part.polygon() for part in parts], place)
    else:
        builder.add_mask(image, name, _union(parts, image), place)


def _union(parts: Sequence[_Part], image: Mapping[str, Any]) -> NDArray[np.bool_]:
    size = (image["height"], image["width"])
    union = np.zeros(size, dtype=bool)
    for part in parts:
        if part.mask is not None:
            union |= part.mask
        else:
            rle: Any = encode_segmentation([part.polygon().ravel().tolist()], size)
            union |= coco_mask.decode(rle).astype(bool)
    return union
