"""Exports in COCO format of CVAT, Roboflow and Label Studio, made a file that training can read.

What these tools do differently:
    CVAT: every object drawn as a mask has ``iscrowd: 1``, which would leave it out of training.
        Rotated boxes have their angle in ``attributes``, which COCO format does not know.
    Roboflow: the first category is the name of the project, without objects, often called like
        another one.
    Label Studio: file names lead to a folder of the server, ids count from 0, and images that it
        could not open have no size.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from d2_seesaw.data.importers.dataset import (
    DatasetBuilder,
    ImportedDataset,
    ImportOptions,
    rotated_corners,
)
from d2_seesaw.data.importers.files import image_files, read_json
from d2_seesaw.data.rle import compressed_rle
from d2_seesaw.utils.text import did_you_mean

_EXPORTS = ("_annotations.coco.json", "result.json", "annotations/*.json", "*.json")
_KEPT_OF_IMAGES = ("neg_category_ids", "not_exhaustive_category_ids")
_HASH = re.compile(r"^[0-9a-f]{8}-")  # that Label Studio puts before a file name


def import_coco(
    source: str | Path,
    *,
    images: str | Path | None = None,
    crowds: str | None = None,
    options: ImportOptions | None = None,
) -> ImportedDataset:
    """Import a COCO export of CVAT, Roboflow or Label Studio.

    Ids of images and categories are kept, annotations are numbered from 1. Boxes and areas of
    objects with a mask are computed from it. Keypoints, captions, licenses and attributes, such as
    ``occluded``, are lost.

    Args:
        source: the JSON file, or the folder of the export.
        images: folder that file names are relative to; by default the one of the JSON file, or
            for ``annotations/instances_x.json`` the folder ``images/x`` or ``images`` beside it.
        crowds: ``objects`` sets ``iscrowd`` to 0, ``keep`` keeps it. By default it is kept, except
            for masks of CVAT.
        options: choices about boxes and masks.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an entry is invalid; the message names it.
    """
    file = _json_file(Path(source))
    content = read_json(file)
    sections = [_section(content, name, file) for name in ("images", "annotations", "categories")]
    _, annotations, categories = sections
    root = Path(images) if images else _image_folder(file)
    unused = _unused_roots(categories, annotations)
    kept = [_category(c, file) for c in categories if c.get("id") not in unused]
    builder = DatasetBuilder(str(file), root, kept, options or ImportOptions())
    for name in unused.values():
        builder.note("categories without objects that stand for a group left out", repr(name))
    reader = _Reader(builder, file, crowds)
    reader.read_images(sections[0])
    for entry in annotations:
        reader.read_annotation(entry)
    return builder.finish()


def _json_file(source: Path) -> Path:
    if not source.is_dir():
        return source
    for pattern in _EXPORTS:
        found = sorted(source.glob(pattern))
        if len(found) > 1:
            names = ", ".join(str(file.relative_to(source)) for file in found[:5])
            raise ValueError(f"{source} has several JSON files, give one of them: {names}")
        if found:
            return found[0]
    raise FileNotFoundError(f"there is no JSON file in {source}")


def _image_folder(file: Path) -> Path:
    beside = file.parent.parent / "images"
    subset = beside / file.stem.removeprefix("instances_")  # CVAT has a folder for each
    choices = (subset, beside) if file.parent.name == "annotations" else ()
    return next((folder for folder in choices if folder.is_dir()), file.parent)


def _section(content: Any, name: str, file: Path) -> list[dict[str, Any]]:
    entries = content.get(name) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise ValueError(f"{file} has no list of {name!r}: is it an export in COCO format?")
    ids = set()
    for position, entry in enumerate(entries):
        place = f"{file}: {name}[{position}]"
        if not isinstance(entry, dict):
            raise ValueError(f"{place} is {str(entry)[:60]}, not an object")
        given = entry.get("id")
        if not isinstance(given, int) or isinstance(given, bool):
            raise ValueError(f"{place} has the id {given!r}, not a whole number")
        if given in ids:
            raise ValueError(f"{file}: two {name} have the id {given}")
        ids.add(given)
    return entries


def _unused_roots(
    categories: Sequence[Mapping[str, Any]], annotations: Sequence[Mapping[str, Any]]
) -> dict[Any, Any]:
    """Return the names, by id, of categories without objects that stand for a group of others.

    Such a category belongs to no listed group. It is called like another category, or it is the
    first one and the others name it as their group.
    """
    used = {str(entry.get("category_id")) for entry in annotations}
    names = [category.get("name") for category in categories]
    groups = [category.get("supercategory") for category in categories]
    found = {}
    for index, (category, name, group) in enumerate(zip(categories, names, groups, strict=True)):
        is_another = name in names[index + 1 :] or (index == 0 and name in groups[1:])
        if str(category["id"]) not in used and group not in names and is_another:
            found[category["id"]] = name
    return found


def _category(category: Mapping[str, Any], file: Path) -> dict[str, Any]:
    name = category.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError(f"{file}: category {category['id']} has the name {name!r}, not text")
    return {k: category[k] for k in ("id", "name", "supercategory") if k in category}


class _Reader:
    """Reads the entries of one file into a builder."""

    def __init__(self, builder: DatasetBuilder, file: Path, crowds: str | None) -> None:
        self.builder, self.file, self.crowds = builder, file, crowds
        self.names = {c["id"]: c["name"] for c in builder.categories or ()}
        self.images: dict[Any, dict[str, Any]] = {}

    def read_images(self, images: Sequence[Mapping[str, Any]]) -> None:
        """Add all images, whose files are searched below the folder of images."""
        for entry in images:
            place = f"{self.file}: image {entry['id']}"
            name = entry.get("file_name")
            if not isinstance(name, str) or not name:
                raise ValueError(f"{place} has the file_name {name!r}, not text")
            path = self._find(name, place)
            size: Any = (entry.get("width"), entry.get("height"))
            if None in size:
                self.builder.note("images whose size was read from their file", place)
            kept = {key: entry[key] for key in _KEPT_OF_IMAGES if entry.get(key) is not None}
            for key, ids in kept.items():
                if not isinstance(ids, list) or not all(
                    _is_number(i) and i in self.names for i in ids
                ):
                    raise ValueError(
                        f"{place}: {key!r} must list ids of categories: {str(ids)[:60]}"
                    )
            given = None if None in size else size
            self.images[entry["id"]] = self.builder.add_image(
                path, place, given, id=entry["id"], **kept
            )

    def _find(self, name: str, place: str) -> Path:
        root = self.builder.image_root
        for candidate in _candidates(name):
            if (root / candidate).is_file():
                if candidate != name:
                    self.builder.note("file names changed to those of the files", place)
                return root / candidate
        hint = did_you_mean(name, (f.relative_to(root).as_posix() for f in image_files(root)))
        raise ValueError(f"{place}: its file {name!r} was not found in {root}{hint}")

    def read_annotation(self, entry: Mapping[str, Any]) -> None:
        """Add one object."""
        place = f"{self.file}: annotation {entry['id']}"
        image, name = self._known(entry, place)
        extra = self._flags(entry, place)
        if entry.get("keypoints"):
            self.builder.note("objects whose keypoints are left out", place)
        segmentation = entry.get("segmentation")
        if isinstance(segmentation, dict):
            self._add_rle(image, name, segmentation, place, extra)
        elif segmentation and self._is_list(segmentation, place):
            nested = segmentation if isinstance(segmentation[0], list) else [segmentation]
            self.builder.add_polygons(image, name, nested, place, **extra)
        else:
            self._add_box(image, name, entry, place, extra)

    def _is_list(self, segmentation: Any, place: str) -> bool:
        if not isinstance(segmentation, list):
            raise ValueError(
                f"{place}: 'segmentation' must be polygons or a run-length encoding, got "
                f"{str(segmentation)[:60]}"
            )
        return True

    def _known(self, entry: Mapping[str, Any], place: str) -> tuple[dict[str, Any], str]:
        for key, known in (("image_id", self.images), ("category_id", self.names)):
            value = entry.get(key)
            if not isinstance(value, int) or isinstance(value, bool) or value not in known:
                raise ValueError(f"{place}: the {key} {value!r} is not listed")
        return self.images[entry["image_id"]], self.names[entry["category_id"]]

    def _flags(self, entry: Mapping[str, Any], place: str) -> dict[str, int]:
        extra = {}
        for key in ("iscrowd", "ignore"):
            value = entry.get(key)
            if value not in (None, 0, 1):
                raise ValueError(f"{place}: {key!r} must be 0 or 1, got {value!r}")
            if value:
                extra[key] = 1
        if "iscrowd" in extra:
            attributes = entry.get("attributes")
            of_cvat = isinstance(attributes, dict) and "occluded" in attributes
            if self.crowds == "objects" or (of_cvat and self.crowds is None):
                self.builder.note("objects marked as crowds imported as single objects", place)
                del extra["iscrowd"]
            else:
                self.builder.note("crowds kept, which are not trained on", place)
        return extra

    def _add_rle(
        self,
        image: Mapping[str, Any],
        name: str,
        segmentation: Mapping[str, Any],
        place: str,
        extra: Mapping[str, int],
    ) -> None:
        try:
            rle = compressed_rle(segmentation)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{place}: the run-length encoding is invalid: {error}") from error
        if rle["size"] != [image["height"], image["width"]]:
            raise ValueError(
                f"{place}: the run-length encoding is of {rle['size'][1]} x {rle['size'][0]}, its "
                f"image is {image['width']} x {image['height']}"
            )
        self.builder.add_mask(image, name, rle, place, **extra)

    def _add_box(
        self,
        image: Mapping[str, Any],
        name: str,
        entry: Mapping[str, Any],
        place: str,
        extra: Mapping[str, int],
    ) -> None:
        box = entry.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
            raise ValueError(f"{place}: 'bbox' must be four finite numbers, got {box!r}")
        x, y, w, h = box
        if w < 0 or h < 0:
            raise ValueError(f"{place}: the box {box} has a negative size")
        corners = [x, y, x + w, y + h]
        attributes = entry.get("attributes")
        angle = attributes.get("rotation", 0) if isinstance(attributes, dict) else 0
        if not _is_number(angle):
            raise ValueError(f"{place}: the rotation must be a finite number, got {angle!r}")
        if angle % 360:
            points = rotated_corners(corners, angle)
            self.builder.add_rotated_box(image, name, points, place, **extra)
        else:
            self.builder.add_box(image, name, corners, place, **extra)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**31


def _candidates(name: str) -> Iterator[str]:
    """Yield possible names of a file below the folder of images.

    These are the name, without its first folders, without a hash before it, and each with
    percent-encoded characters replaced. ``?d=`` comes before a path in links of Label Studio.
    """
    local = name.rpartition("?d=")[2].replace("\\", "/")
    for text in dict.fromkeys((local, unquote(local))):
        parts = [part for part in PurePosixPath(text).parts if part not in ("..", "/")]
        for start in range(len(parts)):
            yield "/".join(parts[start:])
        if parts and _HASH.match(parts[-1]):
            yield _HASH.sub("", parts[-1])
