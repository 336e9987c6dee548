"""The COCO dataset that an importer fills: images, objects, categories and what was left out.

An object is a box, polygons or a bitmap in pixels of its image, with the origin in the top left
corner. It is clipped to the image. Areas are those of pycocotools, in pixels of the mask.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pycocotools import mask as coco_mask

from d2_seesaw.data.importers.files import image_size
from d2_seesaw.data.rle import encode_bitmap, encode_segmentation
from d2_seesaw.utils.files import atomic_write
from d2_seesaw.utils.text import did_you_mean

_LARGE = 2.0**31  # pixels; no coordinate is that far away


@dataclass(frozen=True)
class ImportOptions:
    """Choices about objects that COCO format cannot represent as they are.

    Attributes:
        enclose_rotated: Replace a rotated box by the upright box around it, instead of refusing it.
        boxes_only: Leave out all masks.
        boxes_as_masks: Where some objects have masks and others only boxes, give these the whole
            box as their mask, instead of refusing the mixture.
    """

    enclose_rotated: bool = False
    boxes_only: bool = False
    boxes_as_masks: bool = False


@dataclass(frozen=True)
class ImportedDataset:
    """A dataset in COCO format.

    Attributes:
        content: ``info``, ``images``, ``annotations`` and ``categories``.
        image_root: The folder that the file names are relative to.
        notes: What was left out or changed, with its number and the first place.
    """

    content: Mapping[str, Any]
    image_root: Path
    notes: Sequence[str]

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the JSON file in one step.

        Raises:
            ValueError: a name has lone surrogates.
        """
        try:
            text = json.dumps(self.content, ensure_ascii=False, allow_nan=False).encode()
        except UnicodeEncodeError as error:
            name = error.object[max(0, error.start - 30) : error.end]
            raise ValueError(f"a name is not valid Unicode: {name!r}") from error
        with atomic_write(path) as file:
            file.write(text)

    def summary(self) -> str:
        """Return the numbers of images, objects and categories, and the notes."""
        images, annotations = self.content["images"], self.content["annotations"]
        masks = sum("segmentation" in a for a in annotations)
        empty = len(images) - len({a["image_id"] for a in annotations})
        lines = [
            f"{len(images):,} images ({empty:,} without objects), {len(annotations):,} objects "
            f"({masks:,} with masks), {len(self.content['categories']):,} categories"
        ]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


@dataclass
class DatasetBuilder:
    """Collects a dataset object by object.

    Attributes:
        source: Description of the source, for ``info``.
        image_root: The folder that the file names are relative to.
        categories: The categories with ``id`` and ``name``; None numbers the names that objects
            have from 1, sorted.
        options: Choices of the user.
    """

    source: str
    image_root: Path
    categories: Sequence[Mapping[str, Any]] | None
    options: ImportOptions
    images: list[dict[str, Any]] = field(default_factory=list)
    objects: list[dict[str, Any]] = field(default_factory=list)
    _notes: dict[str, tuple[int, str]] = field(default_factory=dict)
    _box_only: list[str] = field(default_factory=list)
    _files: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [category["name"] for category in self.categories or ()]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two categories of {self.source} are called {repeated[0]!r}")
        self._names = dict.fromkeys(names)

    def note(self, text: str, place: str) -> None:
        """Count something that was left out or changed; its first place is reported."""
        number, first = self._notes.get(text, (0, place))
        self._notes[text] = number + 1, first

    def add_image(
        self, path: Path, place: str, size: tuple[int, int] | None = None, **fields: Any
    ) -> dict[str, Any]:
        """Add an image file and return its entry.

        Args:
            path: the file.
            place: where the source names it, for messages.
            size: ``(width, height)`` in the source.
            fields: further fields; ``id`` replaces the running number.

        Raises:
            ValueError: the file cannot be read, is outside of ``image_root``, was added before, or
                has another size than the source says.
        """
        try:
            file_name = path.relative_to(self.image_root).as_posix()
        except ValueError:
            raise ValueError(
                f"{place}: the image {path} is not below {self.image_root}: give --images FOLDER, "
                "a folder with all images below it"
            ) from None
        if file_name in self._files:
            first = self._files[file_name]
            raise ValueError(f"{place}: the image {file_name} was already named by {first}")
        self._files[file_name] = place
        width, height = image_size(path, place)
        if size is not None and size != (width, height):
            raise ValueError(
                f"{place}: the image {path} is {width} x {height} (turned as its EXIF data say), "
                f"the annotations are of {size[0]!r} x {size[1]!r}"
            )
        known = {"id": len(self.images) + 1, "file_name": file_name}
        self.images.append({**known, "width": width, "height": height, **fields})
        return self.images[-1]

    def add_box(
        self,
        image: Mapping[str, Any],
        name: str,
        corners: Sequence[float],
        place: str,
        **extra: Any,
    ) -> None:
        """Add a box given by its corners ``x0, y0, x1, y1``."""
        x0, y0, x1, y1 = _finite(corners, place).tolist()
        width, height = image["width"], image["height"]
        box = [max(x0, 0.0), max(y0, 0.0), min(x1, width), min(y1, height)]
        if min(x0, y0, width - x1, height - y1) < -1:
            self.note("boxes clipped to their image", place)
        if box[2] <= box[0] or box[3] <= box[1]:
            self.note("boxes without an area in their image left out", place)
            return
        size = [box[2] - box[0], box[3] - box[1]]
        self._box_only.append(place)
        self._add(image, name, place, [*box[:2], *size], size[0] * size[1], **extra)

    def add_rotated_box(
        self, image: Mapping[str, Any], name: str, points: ArrayLike, place: str, **extra: Any
    ) -> None:
        """Add the box around the four corners ``(4, 2)`` of a rotated box, if the user wants it.

        Raises:
            ValueError: rotated boxes were not asked for.
        """
        if not self.options.enclose_rotated:
            raise ValueError(
                f"{place}: a rotated box, which COCO format does not have; --enclose-rotated takes "
                "the upright box around it"
            )
        corners = _finite(points, place).reshape(4, 2)
        self.note("rotated boxes replaced by the upright boxes around them", place)
        self.add_box(image, name, [*corners.min(axis=0), *corners.max(axis=0)], place, **extra)

    def add_polygons(
        self,
        image: Mapping[str, Any],
        name: str,
        polygons: Sequence[ArrayLike],
        place: str,
        **extra: Any,
    ) -> None:
        """Add an object whose parts are polygons, each ``(P, 2)`` points or a flat list."""
        kept = []
        for polygon in polygons:
            points = _finite(polygon, place)
            if points.size % 2 or points.size < 6:
                raise ValueError(
                    f"{place}: a polygon needs three points x, y or more, got {points.size} numbers"
                )
            points = points.reshape(-1, 2)
            clipped = clip_polygon(points, image["width"], image["height"])
            if len(clipped) != len(points) or np.abs(clipped - points).max() > 1:
                self.note("polygons clipped to their image", place)
            if len(clipped) >= 3 and np.ptp(clipped, axis=0).min() > 0:
                kept.append(clipped)
            else:
                self.note("flat polygons, or polygons outside of their image, left out", place)
        segmentation = [points.ravel().tolist() for points in kept]
        if not kept:
            return
        rle: Any = encode_segmentation(segmentation, (image["height"], image["width"]))
        if not (area := int(coco_mask.area(rle))):
            self.note("masks that cover no pixel left out", place)
            return
        low, high = np.concatenate(kept).min(axis=0), np.concatenate(kept).max(axis=0)
        box = [*low.tolist(), *(high - low).tolist()]
        self._add(image, name, place, box, area, segmentation=segmentation, **extra)

    def add_mask(
        self, image: Mapping[str, Any], name: str, mask: Any, place: str, **extra: Any
    ) -> None:
        """Add an object with a bitmap ``(H, W)`` or a run-length encoding of the image."""
        rle: Any = dict(mask) if isinstance(mask, Mapping) else encode_bitmap(mask)
        area, box = int(coco_mask.area(rle)), coco_mask.toBbox(rle).tolist()
        if not area:
            self.note("masks that cover no pixel left out", place)
            return
        counts = rle["counts"]
        rle["counts"] = counts.decode() if isinstance(counts, bytes) else counts
        self._add(image, name, place, box, area, segmentation=rle, **extra)

    def _add(
        self,
        image: Mapping[str, Any],
        name: str,
        place: str,
        box: list[float],
        area: float,
        **extra: Any,
    ) -> None:
        if self.categories is not None and name not in self._names:
            raise ValueError(
                f"{place}: the category {name!r} is not among the {len(self._names)} given names"
                f"{did_you_mean(name, self._names)}"
            )
        known = {"id": len(self.objects) + 1, "image_id": image["id"], "category": name}
        self.objects.append({**known, "bbox": box, "area": area, "iscrowd": 0, **extra})

    def finish(self) -> ImportedDataset:
        """Return the dataset.

        Raises:
            ValueError: it has no objects, or some objects have masks and others only boxes, and no
                option says what to do.
        """
        if not self.objects:
            raise ValueError(f"{self.source} has no objects that can be imported{self._listed()}")
        masks = len(self.objects) - len(self._box_only)
        if self.options.boxes_only:
            self.objects = [_without_mask(entry) for entry in self.objects]
        elif masks and self._box_only:
            self._mend_mixture(masks)
        names = sorted({entry["category"] for entry in self.objects})
        categories = self.categories or [{"id": i, "name": n} for i, n in enumerate(names, 1)]
        ids = {category["name"]: category["id"] for category in categories}
        annotations = [_with_category_id(entry, ids) for entry in self.objects]
        content = {
            "info": {"description": f"imported from {self.source}"},
            "images": self.images,
            "annotations": annotations,
            "categories": list(categories),
        }
        return ImportedDataset(content, self.image_root, self._note_lines())

    def _mend_mixture(self, masks: int) -> None:
        number, first = len(self._box_only), self._box_only[0]
        if not self.options.boxes_as_masks:
            raise ValueError(
                f"{masks} objects have a mask and {number} only a box, the first one at {first}: "
                "--boxes-only leaves out all masks, --boxes-as-masks takes the whole box as mask"
            )
        text = "boxes taken as masks"
        self._notes[text] = number, first
        sizes = {image["id"]: (image["height"], image["width"]) for image in self.images}
        for entry in self.objects:
            if "segmentation" not in entry:
                x, y, w, h = entry["bbox"]
                polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
                rle: Any = encode_segmentation([polygon], sizes[entry["image_id"]])
                entry |= {"segmentation": [polygon], "area": int(coco_mask.area(rle))}
        self.objects = [entry for entry in self.objects if entry["area"]]

    def _note_lines(self) -> list[str]:
        return [f"{number:,} {text}, first: {at}" for text, (number, at) in self._notes.items()]

    def _listed(self) -> str:
        return "".join(f"; {line}" for line in self._note_lines())


def _without_mask(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object without its mask; its area is that of the box."""
    kept = {key: value for key, value in entry.items() if key != "segmentation"}
    return {**kept, "area": entry["bbox"][2] * entry["bbox"][3]}


def _with_category_id(entry: Mapping[str, Any], ids: Mapping[str, Any]) -> dict[str, Any]:
    renamed = {"category_id": ids[entry["category"]]}
    return {"id": entry["id"], "image_id": entry["image_id"], **renamed} | {
        key: value for key, value in entry.items() if key != "category"
    }


def _finite(numbers: Any, place: str) -> NDArray[np.float64]:
    """Return finite numbers as an array.

    Raises:
        ValueError: one is not a finite number.
    """
    try:
        array = np.asarray(numbers, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        array = np.array([np.nan])
    texts = not isinstance(numbers, np.ndarray) and _has_other_types(numbers)
    if texts or not (np.abs(array) < _LARGE).all():
        raise ValueError(f"{place}: coordinates must be finite numbers, got {str(numbers)[:100]}")
    return array


def _has_other_types(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_has_other_types(v) for v in value)
    return isinstance(value, bool) or not isinstance(value, int | float | np.number | np.ndarray)


def clip_polygon(points: NDArray[np.float64], width: int, height: int) -> NDArray[np.float64]:
    """Return the part of a polygon ``(P, 2)`` in the image, without points if there is none.

    A part that falls apart stays one polygon, whose pieces are connected along the border.
    """
    if ((points >= 0) & (points <= [width, height])).all():
        return points
    from matplotlib.path import Path as Outline  # only here, because it is slow to import
    from matplotlib.transforms import Bbox

    clipped = Outline(points).clip_to_bbox(Bbox.from_extents(0, 0, width, height))
    vertices = np.asarray(clipped.vertices, dtype=np.float64).reshape(-1, 2)
    return np.clip(vertices[:-1], 0, [width, height])  # the last one closes the path


def rotated_corners(corners: Sequence[float], degrees: float) -> NDArray[np.float64]:
    """Return the corners ``(4, 2)`` of a box x0, y0, x1, y1 turned clockwise about its center."""
    x0, y0, x1, y1 = corners
    center = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    offsets = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]) - center
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return center + offsets @ np.array([[c, s], [-s, c]])
