"""Generator of long-tailed street scenes for semantic segmentation.

    generate_semantic_dataset("datasets/semantic_quickstart")

The same specification gives the same images and labels on every machine: each image has its own
random generator, seeded by seed, split and image.

Shapes in this module:
    H, W: height and width of an image
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from d2_seesaw.data.quickstart import CLASSES
from d2_seesaw.synthetic.folder import (
    SPLITS,
    finish_writing,
    holds_complete,
    image_ids,
    start_writing,
)
from d2_seesaw.synthetic.street_scenes import EVERYWHERE, IGNORE_LABEL, draw_scene
from d2_seesaw.utils.files import write_text
from d2_seesaw.utils.progress import track

CLASSES_FILE = "classes.json"
TRAIN_IMAGE_SHARES = {
    "tree": 0.85,
    "car": 0.8,
    "pole": 0.65,
    "person": 0.6,
    "sign": 0.2,
    "light": 0.1,
    "taxi": 0.05,
    "animal": 0.03,
}
"""Fraction of the training images that show a class; all images show the other classes."""

_FORMAT_VERSION = 1  # increment it if the same specification gives different data
_JPEG_QUALITY = 95


@dataclass(frozen=True)
class SemanticSpec:
    """Specification that determines the data.

    Attributes:
        num_train_images: images of the training split, whose class frequencies are
            ``TRAIN_IMAGE_SHARES``.
        num_val_images: images of the validation split. It is flatter than training, so that the
            recall of rare classes can be measured: a class in a fraction s of the training images
            is in ``s ** (1 - val_flatness)`` of these.
        image_size: ``(H, W)``.
        seed: another seed gives other images of the same classes.
        val_flatness: 0 keeps the training split's long tail in validation; 1 removes it.
        min_val_images: minimum validation images per class, if there are enough images.
    """

    num_train_images: int = 300
    num_val_images: int = 100
    image_size: tuple[int, int] = (128, 192)
    seed: int = 0
    val_flatness: float = 0.5
    min_val_images: int = 8

    def __post_init__(self) -> None:
        expectations = {
            "num_train_images": (self.num_train_images >= 1, "at least 1"),
            "num_val_images": (self.num_val_images >= 1, "at least 1"),
            "image_size": (
                len(self.image_size) == 2 and 64 <= self.image_size[0] <= self.image_size[1],
                "a height of at least 64 and a width of at least the height",
            ),
            "seed": (self.seed >= 0, "at least 0"),
            "val_flatness": (0 <= self.val_flatness <= 1, "between 0 and 1"),
            "min_val_images": (self.min_val_images >= 1, "at least 1"),
        }
        for name, (holds, expected) in expectations.items():
            if not holds:
                raise ValueError(f"{name} must be {expected}, got {getattr(self, name)}")

    def parameters(self) -> dict[str, Any]:
        """Return generator, version and all fields as after a round trip through JSON."""
        made_by = {"generator": "semantic", "format_version": _FORMAT_VERSION}
        return json.loads(json.dumps(made_by | asdict(self)))


@dataclass(frozen=True)
class GeneratedSemanticDataset:
    """Location of a generated dataset: ``images/`` and ``labels/`` with ``train/`` and ``val/``."""

    root: Path
    classes: tuple[str, ...]
    num_images: dict[str, int]  # by split
    reused: bool  # it existed already


def written_files(parameters: dict[str, Any]) -> Iterator[str]:
    """Yield the paths that the generator writes for ``parameters``, except the markers."""
    yield CLASSES_FILE
    for split in SPLITS:
        for image_id in image_ids(split, parameters):
            yield _image_file(split, image_id)
            yield _label_file(split, image_id)


def _image_file(split: str, image_id: int) -> str:
    return f"images/{split}/{image_id:06d}.jpg"


def _label_file(split: str, image_id: int) -> str:
    return f"labels/{split}/{image_id:06d}.png"


def _plan(spec: SemanticSpec, split: str, number: int) -> list[set[str]]:
    """Assign classes to images, with the exact number of images for every class."""
    rng = np.random.default_rng([spec.seed, SPLITS.index(split)])
    shown: list[set[str]] = [set(EVERYWHERE) for _ in range(number)]
    for name, share in TRAIN_IMAGE_SHARES.items():
        images = max(1, round(share * number))
        if split == "val":
            images = round(share ** (1 - spec.val_flatness) * number)
            images = min(max(images, spec.min_val_images), number)
        for index in rng.permutation(number)[:images]:
            shown[index].add(name)
    return shown


def _write(path: Path, array: np.ndarray, *options: int) -> None:
    if not cv2.imwrite(str(path), array, options):
        raise OSError(f"could not write {path}")


def generate_semantic_dataset(
    root: str | Path,
    spec: SemanticSpec | None = None,
    *,
    overwrite: bool = False,
    progress: bool = True,
) -> GeneratedSemanticDataset:
    """Generate the dataset of ``spec`` in ``root``, unless it exists there.

    Args:
        root: folder for ``images/{train,val}/*.jpg``, ``labels/{train,val}/*.png`` with class
            indices or 255, ``classes.json`` and, written last, ``generator.json``. Other files in
            it are not changed.
        spec: specification; by default the data registered as ``semantic_quickstart_train`` and
            ``_val``.
        overwrite: replace a complete dataset of another specification instead of raising.
        progress: show the progress, see :class:`~d2_seesaw.utils.progress.Progress`.

    Raises:
        ValueError: ``root`` contains other data.
    """
    spec, root = spec or SemanticSpec(), Path(root).expanduser()
    parameters = spec.parameters()
    number = {split: len(image_ids(split, parameters)) for split in SPLITS}
    if holds_complete(root, parameters, written_files):
        return GeneratedSemanticDataset(root, CLASSES, number, reused=True)

    start_writing(root, parameters, written_files, overwrite=overwrite)
    for split in SPLITS:
        plan = _plan(spec, split, number[split])
        images = track(
            zip(image_ids(split, parameters), plan, strict=True),
            f"drawing {split} images",
            total=number[split],
            unit="image",
            shown=progress,
        )
        for image_id, shown in images:
            rng = np.random.default_rng([spec.seed, SPLITS.index(split), image_id])
            picture, labels = draw_scene(rng, shown, spec.image_size)
            quality = (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY)
            _write(root / _image_file(split, image_id), picture, *quality)
            _write(root / _label_file(split, image_id), labels)
    description = {"classes": CLASSES, "ignore_label": IGNORE_LABEL}
    write_text(root / CLASSES_FILE, json.dumps(description, indent=1) + "\n")
    finish_writing(root)
    return GeneratedSemanticDataset(root, CLASSES, number, reused=False)
