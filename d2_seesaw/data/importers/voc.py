"""Pascal VOC: one XML file per image, boxes, and masks of segmented images.

Pixels count from 1 and a box includes its last pixel, as the VOC development kit defines it. A box
from ``xmin`` to ``xmax`` therefore begins at ``xmin - 1`` and ends at ``xmax`` here. Some tools,
such as CVAT, write edges that count from 0 instead. The files do not say so, unless a box begins
at 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from d2_seesaw.data.image_files import open_image
from d2_seesaw.data.importers.dataset import (
    DatasetBuilder,
    ImportedDataset,
    ImportOptions,
    rotated_corners,
)
from d2_seesaw.data.importers.files import categories_from, find_image, read_names, read_xml

_VOID = 255  # border between objects
_SAME_OBJECT = 0.5  # least overlap of the box of a mask with the box of its object


def import_voc(
    source: str | Path,
    *,
    images: str | Path | None = None,
    split: str | None = None,
    classes: str | Path | None = None,
    zero_based: bool = False,
    options: ImportOptions | None = None,
) -> ImportedDataset:
    """Import Pascal VOC.

    Difficult objects get ``ignore: 1``: they are trained on, and evaluation counts them neither as
    missed nor as found. Where ``SegmentationObject`` has an image, object ``i`` of its XML file has
    the pixels of value ``i``, and the box around them. Pose, ``truncated``, parts, actions and the
    void border of masks are lost.

    Args:
        source: a folder with ``Annotations``, such as ``VOC2012``, or a folder of XML files.
        images: folder of the images; by default ``JPEGImages`` beside ``Annotations``, or the
            folder of the XML files.
        split: a file in ``ImageSets/Main``, such as ``train``, or in ``ImageSets``, such as
            ``Segmentation/train``. By default all XML files are imported.
        classes: class names, one a line; by default the names of the objects, sorted.
        zero_based: boxes are edges that count from 0, as CVAT writes them.
        options: choices about boxes and masks.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file is invalid; the message names it.
    """
    source = Path(source)
    annotations = source / "Annotations" if (source / "Annotations").is_dir() else source
    if images is None:
        beside = annotations.parent / "JPEGImages"
        images = beside if beside.is_dir() else annotations
    names = read_names(Path(classes)) if classes else None
    builder = DatasetBuilder(
        f"Pascal VOC {source}", Path(images), categories_from(names), options or ImportOptions()
    )
    for file in _xml_files(source, annotations, split):
        _add_file(builder, file, annotations, 0 if zero_based else 1)
    return builder.finish()


def _xml_files(source: Path, annotations: Path, split: str | None) -> Sequence[Path]:
    if not source.is_dir():
        raise FileNotFoundError(f"{source} is not a folder")
    if split is None:
        files = sorted(annotations.rglob("*.xml"))
        if not files:
            raise ValueError(f"there are no XML files in {annotations}")
        return files
    sets = source / "ImageSets"
    listed = sets / (split if "/" in split else f"Main/{split}")
    lines = listed.with_name(f"{listed.name}.txt").read_text(encoding="utf-8-sig").splitlines()
    return [annotations / f"{line.split()[0]}.xml" for line in lines if line.strip()]


def _add_file(builder: DatasetBuilder, file: Path, annotations: Path, first: int) -> None:
    root = read_xml(file)
    if root.tag != "annotation":
        raise ValueError(f"{file} is not a file of Pascal VOC: its root is <{root.tag}>")
    stem = file.relative_to(annotations).with_suffix("")
    path = find_image(builder.image_root, root.findtext("filename"), stem, str(file))
    image = builder.add_image(path, str(file), _size(root, file))
    objects = root.findall("object")
    masks: Any = [None] * len(objects)
    if not builder.options.boxes_only:
        masks = _masks(annotations.parent / "SegmentationObject", stem, image, len(objects))
    for number, (entry, mask) in enumerate(zip(objects, masks, strict=True), 1):
        place = f"{file}, object {number}"
        name = (entry.findtext("name") or "").strip()
        if not name:
            raise ValueError(f"{place}: it has no name")
        extra = {"ignore": 1} if _flag(entry, "difficult", place) else {}
        corners, angle = _box(entry, first, place)
        if min(corners) < 0 and first:
            builder.note("boxes begin before pixel 1: does the file need --zero-based?", place)
        if mask is not None:
            _check_mask(mask, corners, place)
            builder.add_mask(image, name, mask, place, **extra)
        elif angle:
            points = rotated_corners(corners, angle)
            builder.add_rotated_box(image, name, points, place, **extra)
        else:
            builder.add_box(image, name, corners, place, **extra)


def _box(entry: ElementTree.Element, first: int, place: str) -> tuple[list[float], float]:
    """Return the corners from 0 and the clockwise rotation in degrees.

    CVAT writes the rotation as an attribute, roLabelImg in a box of its own, in radians.
    """
    if (rotated := entry.find("robndbox")) is not None:
        x, y, w, h, angle = (_number(rotated, t, place) for t in ("cx", "cy", "w", "h", "angle"))
        return [x - w / 2, y - h / 2, x + w / 2, y + h / 2], math.degrees(angle) % 360
    if (box := entry.find("bndbox")) is None:
        raise ValueError(f"{place}: it has no box")
    x0, y0, x1, y1 = (_number(box, tag, place) for tag in ("xmin", "ymin", "xmax", "ymax"))
    if x1 < x0 or y1 < y0:
        raise ValueError(
            f"{place}: the box ends before it begins: {x0:g}, {y0:g} to {x1:g}, {y1:g}"
        )
    angle = 0.0
    for attribute in entry.iterfind("attributes/attribute"):
        if attribute.findtext("name") == "rotation":
            angle = _number(attribute, "value", place) % 360
    return [x0 - first, y0 - first, x1, y1], angle


def _number(parent: ElementTree.Element, tag: str, place: str) -> float:
    text = parent.findtext(tag)
    try:
        number = float(text or "")
    except ValueError:
        number = np.nan
    if not np.isfinite(number):
        raise ValueError(f"{place}: <{tag}> must be a finite number, got {text!r}")
    return number


def _flag(entry: ElementTree.Element, tag: str, place: str) -> bool:
    text = (entry.findtext(tag) or "0").strip().lower()
    if text not in ("0", "1", "true", "false"):
        raise ValueError(f"{place}: <{tag}> must be 0 or 1, got {text!r}")
    return text in ("1", "true")


def _size(root: ElementTree.Element, file: Path) -> tuple[int, int] | None:
    """Return width and height; None for a file without them, or with zeros."""
    size = root.find("size")
    if size is None:
        return None
    width, height = (int(_number(size, tag, str(file))) for tag in ("width", "height"))
    return (width, height) if width and height else None


def _masks(
    folder: Path, stem: Path, image: dict[str, Any], number: int
) -> Iterator[NDArray[np.bool_] | None] | list[None]:
    """Return the mask of each object, None for an image without masks."""
    file = folder / stem.with_suffix(".png")
    if not file.is_file():
        return [None] * number
    with open_image(file) as opened:
        if opened.size != (image["width"], image["height"]):
            raise ValueError(f"{file} is {opened.width} x {opened.height}, not as its image")
        indices = np.array(opened)
        mode = opened.mode
    if mode in ("RGB", "RGBA"):
        indices = _color_indices(indices[..., :3])
    used = set(np.unique(indices).tolist()) - {0, _VOID}
    if used != set(range(1, number + 1)):
        raise ValueError(
            f"{file} has the objects {sorted(used)}, its XML file 1 to {number}: "
            "--boxes-only leaves out all masks"
        )
    return (indices == index for index in range(1, number + 1))


def _color_indices(colors: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the indices of VOC's color map: bits 0, 1, 2 are the highest of red, green, blue."""
    indices = np.zeros(colors.shape[:2], np.uint8)
    for bit in range(8):
        plane = (colors[..., bit % 3] >> (7 - bit // 3)) & 1
        indices |= plane << bit
    return indices


def _check_mask(mask: NDArray[np.bool_], corners: Sequence[float], place: str) -> None:
    """Check that a mask belongs to the box of its object."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    low = np.array([columns[0], rows[0]])
    high = np.array([columns[-1] + 1, rows[-1] + 1])
    x0, y0, x1, y1 = corners
    common = np.minimum(high, [x1, y1]) - np.maximum(low, [x0, y0])
    shared = common.clip(0).prod()
    union = (high - low).prod() + (x1 - x0) * (y1 - y0) - shared
    if shared < _SAME_OBJECT * union:
        raise ValueError(
            f"{place}: its mask covers {low.tolist()} to {high.tolist()}, its box "
            f"{[x0, y0]} to {[x1, y1]}: masks must be in the order of the objects"
        )
