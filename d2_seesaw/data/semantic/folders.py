"""Semantic segmentation datasets from a folder of images and a folder of label maps."""

import itertools
import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from d2_seesaw.data.image_files import open_image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

_EXIF_ORIENTATION = 0x0112
_TURNED_ORIENTATIONS = (5, 6, 7, 8)  # height and width are swapped when the image is read
_NAMES_SHOWN = 5


@dataclass(frozen=True)
class FrameSplit:
    """Deterministic split of a video dataset that has no published split.

    Frames are sorted by name and divided into stretches of equal length. Each stretch is divided
    into contiguous blocks, one per part. Neighboring frames, which look alike, are thus in the same
    part, and every part covers the whole sequence. Frames with the same name in several folders,
    such as those of several cameras, are in the same part.

    Attributes:
        part: name of the part, one of ``percentages``.
        percentages: share of the frames of each stretch by part, in this order; the sum is 100.
        stretches: number of stretches.
        shuffle_seed: seed of Python's random numbers by which to shuffle the frames before they
            are divided, so that the frames of a stretch are no longer contiguous. None does not
            shuffle.
    """

    part: str
    percentages: tuple[tuple[str, int], ...] = (("train", 70), ("val", 10), ("test", 20))
    stretches: int = 5
    shuffle_seed: int | None = None

    def __post_init__(self) -> None:
        parts = [name for name, _ in self.percentages]
        if self.part not in parts:
            raise ValueError(f"part must be one of {', '.join(parts)}, got {self.part!r}")
        if (total := sum(percent for _, percent in self.percentages)) != 100:
            raise ValueError(f"percentages must sum to 100, got {total}")
        if self.stretches < 1:
            raise ValueError(f"stretches must be at least 1, got {self.stretches}")

    def choose(self, frames: Iterable[str]) -> set[str]:
        """Return the names that belong to this part."""
        ordered = sorted(set(frames))
        if self.shuffle_seed is not None:
            random.Random(self.shuffle_seed).shuffle(ordered)
        bounds = [len(ordered) * i // self.stretches for i in range(self.stretches + 1)]
        chosen: set[str] = set()
        for start, stop in itertools.pairwise(bounds):
            stretch, done = ordered[start:stop], 0
            for part, percent in self.percentages:
                first, last = (len(stretch) * p // 100 for p in (done, done + percent))
                done += percent
                if part == self.part:
                    chosen.update(stretch[first:last])
        return chosen


def register_semantic_folder(
    name: str,
    image_root: str | Path,
    label_root: str | Path,
    *,
    classes: Sequence[str],
    label_ids: Mapping[int, int] | None = None,
    ignore_label: int = 255,
    image_suffix: str = "",
    label_suffix: str = "",
    subfolders: Sequence[str] = (),
    split: FrameSplit | None = None,
) -> None:
    """Register images and label maps in two folders, nested or not, with the same names.

    No file is read until the dataset is loaded. Then all names must match, and image sizes are read
    from the headers. Registering the same dataset again changes nothing.

    Args:
        name: name of the dataset in Detectron2's catalogs.
        image_root: folder of the images: jpg, jpeg, png, bmp, tif, tiff or webp.
        label_root: folder of the label maps, see :func:`~d2_seesaw.data.read_labels`.
        classes: names of the C classes.
        label_ids: class in ``[0, C)`` of each id in the label maps; other ids are ignored. By
            default the label maps contain classes.
        ignore_label: label of pixels without a class.
        image_suffix: suffix of image names before the extension that label maps do not have, such
            as ``"_leftImg8bit"``; other images are skipped.
        label_suffix: the same for label maps, such as ``"_labelTrainIds"``.
        subfolders: subfolders of both folders to use; all by default.
        split: part of the images to use; all by default.

    Raises:
        ValueError: ``name`` is registered with other arguments, or classes are repeated, reach
            ``ignore_label``, or do not match ``label_ids``. On loading: an image has no label map
            or the reverse, two images have the same name, or there are no images.
    """
    _check_classes(classes, label_ids, ignore_label)
    # The identity of the dataset; plain values, because they are stored in Detectron2's metadata.
    place: dict[str, Any] = {
        "image_root": str(image_root),
        "sem_seg_root": str(label_root),
        "stuff_classes": list(classes),
        "ignore_label": ignore_label,
        "sem_seg_label_ids": None if label_ids is None else dict(label_ids),
        "image_suffix": image_suffix,
        "label_suffix": label_suffix,
        "subfolders": tuple(subfolders),
        "split": None if split is None else asdict(split),
    }
    if name in DatasetCatalog.list():
        known = MetadataCatalog.get(name)
        other = {key: known.get(key) for key in place if known.get(key) != place[key]}
        if other:
            given = {key: place[key] for key in other}
            raise ValueError(f"dataset {name!r} is already registered with {other}, not {given}")
        return

    def load() -> list[dict[str, Any]]:
        images = _files_below(image_root, subfolders, IMAGE_SUFFIXES, image_suffix)
        labels = _files_below(label_root, subfolders, (".png",), label_suffix)
        keys = _paired(name, images, labels)
        if split is not None:
            chosen = split.choose(os.path.basename(key) for key in keys)
            keys = [key for key in keys if os.path.basename(key) in chosen]
        if not keys:
            raise ValueError(f"dataset {name!r} has no images in {image_root}{_of(split)}")
        return [_record(images[key], labels[key], label_ids) for key in keys]

    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(evaluator_type="sem_seg", **place)


def _check_classes(
    classes: Sequence[str], label_ids: Mapping[int, int] | None, ignore_label: int
) -> None:
    repeated = [c for c, times in Counter(classes).items() if times > 1]
    if repeated or not classes:
        raise ValueError(f"classes must not be empty or repeated, got {repeated or 'no classes'}")
    if not len(classes) <= ignore_label <= 255:
        raise ValueError(
            f"ignore_label must be in [{len(classes)}, 255] for {len(classes)} classes, "
            f"got {ignore_label}"
        )
    wrong = {i: c for i, c in (label_ids or {}).items() if i < 0 or not 0 <= c < len(classes)}
    if wrong:
        raise ValueError(
            f"label_ids must map ids >= 0 to classes in [0, {len(classes) - 1}], got {wrong}"
        )


def _files_below(
    root: str | Path, subfolders: Sequence[str], extensions: tuple[str, ...], suffix: str
) -> dict[str, str]:
    """Return paths by their name relative to ``root``, without suffix and extension, sorted."""
    found: dict[str, str] = {}
    for path in _walk(root, subfolders):
        stem, extension = os.path.splitext(path)
        if extension.lower() not in extensions or not stem.endswith(suffix):
            continue
        key = os.path.relpath(stem.removesuffix(suffix), root)
        if key in found:
            raise ValueError(f"{found[key]} and {path} have the same name; remove one of them")
        found[key] = path
    return dict(sorted(found.items()))


def _walk(root: str | Path, subfolders: Sequence[str]) -> Iterator[str]:
    for subfolder in subfolders or ("",):
        for folder, _, names in os.walk(os.path.join(root, subfolder), followlinks=True):
            yield from (os.path.join(folder, n) for n in names if not n.startswith("."))


def _paired(name: str, images: Mapping[str, str], labels: Mapping[str, str]) -> list[str]:
    """Return the names of images and labels, which must be the same."""
    complaints = []
    for kind, other, here, there in (
        ("images", "label map", images, labels),
        ("label maps", "image", labels, images),
    ):
        alone = [path for key, path in here.items() if key not in there]
        if alone:
            shown = ", ".join(alone[:_NAMES_SHOWN]) + (", ..." if alone[_NAMES_SHOWN:] else "")
            complaints.append(f"{len(alone)} of {len(here)} {kind} have no {other}: {shown}")
    if complaints:
        raise ValueError(f"dataset {name!r}: " + "; ".join(complaints))
    return list(images)


def _of(split: FrameSplit | None) -> str:
    return "" if split is None else f" for the part {split.part!r}"


def _record(image: str, labels: str, label_ids: Mapping[int, int] | None) -> dict[str, Any]:
    width, height = read_image_size(image)
    record = {
        "file_name": image,
        "sem_seg_file_name": labels,
        "height": height,
        "width": width,
    }
    return record if label_ids is None else record | {"sem_seg_label_ids": dict(label_ids)}


def read_image_size(path: str) -> tuple[int, int]:
    """Return width and height of an image, rotated by its EXIF data as in Detectron2.

    Raises:
        ValueError: the file cannot be read.
    """
    try:
        with open_image(path) as image:
            turned = image.getexif().get(_EXIF_ORIENTATION) in _TURNED_ORIENTATIONS
            return (image.height, image.width) if turned else (image.width, image.height)
    except (OSError, ValueError) as error:
        raise ValueError(f"image {path} cannot be read: {error}") from error
