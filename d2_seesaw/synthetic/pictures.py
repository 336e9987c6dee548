"""Generator of long-tailed pictures for image classification, in ImageNet-LT's format.

    generate_classification_dataset("datasets/classification_quickstart")

Each picture shows one glyph. Training follows a long tail; validation is balanced. The same
specification gives the same pictures on every machine.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from d2_seesaw.synthetic.folder import SPLITS, finish_writing, holds_complete, start_writing
from d2_seesaw.synthetic.glyph_scenes import SceneStyle, layout_scene, render_scene
from d2_seesaw.synthetic.glyphs import glyph_of
from d2_seesaw.utils.files import write_text
from d2_seesaw.utils.progress import track

STYLE = SceneStyle(object_sizes=((0.55, 0.9),), min_visible_pixels=20, color_jitter=0.06)

_FORMAT_VERSION = 1  # increment it if the same specification gives different data
_JPEG_QUALITY = 95


@dataclass(frozen=True)
class ClassificationSpec:
    """Specification that determines the data.

    Attributes:
        num_classes: C.
        most_images: training images of the most frequent class.
        fewest_images: training images of the rarest class. Counts fall exponentially in between, so
            their sum is about ``C (most - fewest) / log(most / fewest)``.
        val_images_per_class: validation images of each class.
        image_size: height and width.
        seed: another seed gives other pictures of the same classes.
    """

    num_classes: int = 20
    most_images: int = 200
    fewest_images: int = 4
    val_images_per_class: int = 15
    image_size: tuple[int, int] = (48, 48)
    seed: int = 0

    def __post_init__(self) -> None:
        expectations = {
            "num_classes": (self.num_classes >= 2, "at least 2"),
            "fewest_images": (self.fewest_images >= 1, "at least 1"),
            "most_images": (self.most_images >= self.fewest_images, "at least fewest_images"),
            "val_images_per_class": (self.val_images_per_class >= 1, "at least 1"),
            "image_size": (
                len(self.image_size) == 2 and min(self.image_size) >= 16,
                "a height and a width of at least 16",
            ),
            "seed": (self.seed >= 0, "at least 0"),
        }
        for name, (holds, expected) in expectations.items():
            if not holds:
                raise ValueError(f"{name} must be {expected}, got {getattr(self, name)}")

    def parameters(self) -> dict[str, Any]:
        """Return generator, version and all fields as after a round trip through JSON."""
        made_by = {"generator": "classification", "format_version": _FORMAT_VERSION}
        return json.loads(json.dumps(made_by | asdict(self)))

    def train_counts(self) -> list[int]:
        """Return the training images of each class, the most frequent class first."""
        position = np.linspace(0, 1, self.num_classes)
        ratio = self.fewest_images / self.most_images
        return np.rint(self.most_images * ratio**position).astype(int).tolist()


@dataclass(frozen=True)
class GeneratedClassificationDataset:
    """Location of a generated dataset: ``train.txt``, ``val.txt`` and folders of pictures."""

    root: Path
    class_names: tuple[str, ...]
    train_counts: tuple[int, ...]
    num_val_images: int
    reused: bool  # it existed already


def written_files(parameters: dict[str, Any]) -> Iterator[str]:
    """Yield the paths that the generator writes for ``parameters``, except the markers."""
    fields = {k: v for k, v in parameters.items() if k not in ("generator", "format_version")}
    spec = ClassificationSpec(**{**fields, "image_size": tuple(fields["image_size"])})
    for split in SPLITS:
        yield _list_file(split)
        yield from (path for path, _ in _pictures(spec, split))


def _list_file(split: str) -> str:
    return f"{split}.txt"


def _pictures(spec: ClassificationSpec, split: str) -> Iterator[tuple[str, int]]:
    """Yield path and class of each picture of a split."""
    balanced = [spec.val_images_per_class] * spec.num_classes
    for label, count in enumerate(spec.train_counts() if split == "train" else balanced):
        for number in range(1, count + 1):
            yield f"{split}/{glyph_of(label).name}/{number:05d}.jpg", label


def generate_classification_dataset(
    root: str | Path,
    spec: ClassificationSpec | None = None,
    *,
    overwrite: bool = False,
    progress: bool = True,
) -> GeneratedClassificationDataset:
    """Generate the dataset of ``spec`` in ``root``, unless it exists there.

    Args:
        root: folder for ``train.txt`` and ``val.txt`` with lines ``train/CLASS/00001.jpg 0``, the
            pictures and, written last, ``generator.json``. Other files in it are not changed.
        spec: specification; by default the data registered as ``classification_quickstart_train``
            and ``_val``.
        overwrite: replace a complete dataset of another specification instead of raising.
        progress: show the progress.

    Raises:
        ValueError: ``root`` contains other data.
    """
    spec, root = spec or ClassificationSpec(), Path(root).expanduser()
    parameters = spec.parameters()
    names = tuple(glyph_of(label).name for label in range(spec.num_classes))
    num_val_images = spec.num_classes * spec.val_images_per_class
    place = (root, names, tuple(spec.train_counts()), num_val_images)
    if holds_complete(root, parameters, written_files):
        return GeneratedClassificationDataset(*place, reused=True)

    start_writing(root, parameters, written_files, overwrite=overwrite)
    for split in SPLITS:
        pictures = list(_pictures(spec, split))
        shown = track(
            enumerate(pictures),
            f"drawing {split} pictures",
            total=len(pictures),
            unit="picture",
            shown=progress,
        )
        for index, (path, label) in shown:
            rng = np.random.default_rng([spec.seed, SPLITS.index(split), index])
            scene = layout_scene(rng, [label], spec.image_size, STYLE)
            picture = render_scene(rng, scene, STYLE)
            if not cv2.imwrite(
                str(root / path), picture, (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY)
            ):
                raise OSError(f"could not write {root / path}")
        lines = "".join(f"{path} {label}\n" for path, label in pictures)
        write_text(root / _list_file(split), lines)
    finish_writing(root)
    return GeneratedClassificationDataset(*place, reused=False)
